import pytest
from fxedge.compiler.tools.flags import comma_list, gather, size


@pytest.mark.parametrize(("text", "expected"), [(None, None), ("a", ("a",)), (" a, b,", ("a", "b")), ("", ())])
def test_comma_lists(text: str | None, expected: tuple[str, ...] | None):
    assert comma_list(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("224", ("224", "224")),
        ("224x256", ("224", "256")),
        ("8,16", ("8", "16")),
        ("8X9", ("8", "9")),
    ],
)
def test_sizes(text: str | None, expected: tuple[str, ...] | None):
    assert size(text) == expected


def test_preprocessing_is_gathered_apart():
    given = dict.fromkeys(["mean", "std", "scale", "layout", "dtype", "color", "size", "dynamic_axes"])
    found = gather(given | {"static": False, "mean": "0.5,0.25", "size": "8", "dynamic_axes": "0,1", "config": 1})
    assert found == {
        "preprocess": {
            "mean": ("0.5", "0.25"),
            "std": None,
            "scale": None,
            "layout": None,
            "dtype": None,
            "color": None,
            "size": ("8", "8"),
        },
        "dynamic_axes": ("0", "1"),
    }
    assert gather(given | {"static": True})["dynamic_axes"] == ()
    assert gather(given | {"static": False})["dynamic_axes"] is None
