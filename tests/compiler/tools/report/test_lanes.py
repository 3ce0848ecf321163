"""The lines beside the list of a graph."""

from __future__ import annotations

import re

from fxedge.compiler.tools.report.lanes import ROW, Step, assign_lanes, draw_lanes


def _steps(*parts: tuple[str, str]) -> list[Step]:
    """`(name, "inputs")` pairs, each in the row of its place."""
    return [Step(row, name, tuple(reads.split()), "int8") for row, (name, reads) in enumerate(parts)]


def test_a_chain_is_a_straight_line() -> None:
    assert assign_lanes(_steps(("x", ""), ("a", "x"), ("b", "a"))) == {"x": 0, "a": 0, "b": 0}


def test_a_residual_stands_beside_its_branch() -> None:
    steps = _steps(("x", ""), ("a", "x"), ("b", "a"), ("add", "b x"), ("out", "add"))
    assert assign_lanes(steps) == {"x": 0, "a": 1, "b": 1, "add": 0, "out": 0}


def test_lanes_are_used_again() -> None:
    steps = _steps(("x", ""), ("a", "x"), ("b", "x"), ("c", "x"), ("cat", "a b c"), ("d", "cat"))
    assert assign_lanes(steps) == {"x": 0, "a": 1, "b": 2, "c": 0, "cat": 0, "d": 0}


def test_no_line_runs_through_a_step_that_does_not_read_it() -> None:
    steps = _steps(("x", ""), ("a", "x"), ("b", "x a"), ("c", "b"), ("d", "a c"), ("e", "x d"))
    lanes = assign_lanes(steps)
    last = {read: step.row for step in steps for read in step.reads}
    for value in steps:
        for other in steps[value.row + 1 :]:
            if other.row < last.get(value.name, 0):
                assert lanes[other.name] != lanes[value.name], (value.name, other.name)


def test_lines_have_the_color_of_what_they_carry() -> None:
    steps = [Step(0, "x", (), "end"), Step(2, "q", ("x",), "quantize"), Step(3, "y", ("q",), "float")]
    svg = draw_lanes(steps, 4).svg
    assert re.findall(r'<path class="(e.)" d="M12 (\d+)V(\d+)"/>', svg) == [("ef", "14", "70"), ("ei", "70", "98")]
    assert f'height="{4 * ROW}"' in svg
    assert svg.count('class="m ') == 3


def test_an_input_that_is_no_step_draws_nothing() -> None:
    assert 'class="e' not in draw_lanes(_steps(("a", "nowhere")), 1).svg
