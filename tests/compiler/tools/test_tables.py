import json

import pytest
from fxedge.compiler.tools.tables import (
    first_few,
    group_reasons,
    make_console,
    make_table,
    plural,
    print_json,
    print_table,
    size_text,
)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (94_312, "94.3 kB"), (13_900_000, "13.90 MB")],
)
def test_sizes(count: int, text: str):
    assert size_text(count) == text


def test_plurals():
    assert [plural(count, "op") for count in (0, 1, 2)] == ["0 ops", "1 op", "2 ops"]


def test_reasons_are_grouped_in_order():
    skips = [("a", "float input"), ("b", "no kernel"), ("c", "float input")]
    assert group_reasons(skips) == {"float input": ["a", "c"], "no kernel": ["b"]}


def test_long_lists_are_cut():
    assert first_few(["a", "b"], 2) == "a, b"
    assert first_few(["a", "b", "c", "d"], 2) == "a, b and 2 more"


def test_a_table_is_plain_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]):
    table = make_table("target", "size")
    table.add_row("onnx", "94 kB")
    table.add_row("x86", "1 kB")
    print_table(make_console(), table)
    assert capsys.readouterr().out == "target   size\nonnx     94 kB\nx86      1 kB\n"


def test_json_is_indented(capsys: pytest.CaptureFixture[str]):
    print_json({"a": [1, "×"]})
    out = capsys.readouterr().out
    assert json.loads(out) == {"a": [1, "×"]}
    assert "×" in out
