"""What `fxedge bench` is asked for: flags that go together."""

from collections.abc import Callable
from pathlib import Path

import pytest
from bench_records import record, result
from fxedge.compiler.pipeline.records import write_json


@pytest.mark.parametrize(
    ("given", "job", "extra"),
    [
        (("--calibrate-machine", "bundle"), "--calibrate-machine", "BUNDLE"),
        (("--calibrate-machine", "--against", "theirs.onnx"), "--calibrate-machine", "--against"),
        (("--calibrate-machine", "--adb-binary", "program"), "--calibrate-machine", "--adb-binary"),
        (("--calibrate-machine", "--seconds", 0), "--calibrate-machine", "--seconds"),
        (("--compare", "old.json", "new.json", "--target", "onnx"), "--compare", "--target"),
        (("--compare", "--calibrate-machine"), "--compare", "--calibrate-machine"),
        (("bundle", "--adb-binary", "program", "--batch", 2), "--adb-binary", "--batch"),
    ],
)
def test_what_does_not_go_together(fxedge: Callable, given: tuple[object, ...], job: str, extra: str):
    message = f"error: {job} does not go together with {extra}; leave one of them out.\n"
    assert fxedge("bench", *given) == (2, "", message)


@pytest.mark.parametrize(
    ("given", "extra", "owner"),
    [
        (("--margin", 0), "--margin", "--compare"),
        (("--force",), "--force", "--compare"),
        (("--adb", "A1"), "--adb", "--adb-binary"),
    ],
)
def test_what_needs_another_flag(fxedge: Callable, given: tuple[object, ...], extra: str, owner: str):
    message = f"error: {extra} goes only together with {owner}; add that or leave {extra} out.\n"
    assert fxedge("bench", "bundle", *given) == (2, "", message)


def test_a_comparison_does_not_replace_what_it_compares(
    fxedge: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("old.json", "new.json"):
        write_json(tmp_path / name, record(result()).model_dump(mode="json"))
    before = (tmp_path / "new.json").read_bytes()
    message = "error: --json new.json is one of the two records; choose another place for the result.\n"
    assert fxedge("bench", "--compare", "old.json", tmp_path / "new.json", "--json", "new.json") == (
        2,
        "",
        message,
    )
    assert (tmp_path / "new.json").read_bytes() == before
