"""docs/passes.md: every pass has a section, and its picture and log are those of a run of the pass."""

from __future__ import annotations

import re
from pathlib import Path

import fxedge.passes
import pytest
from fxedge.compiler.pipeline.entries import pass_entries
from fxedge.compiler.tools.tables import plural
from mermaid import before_and_after
from pass_examples import EXAMPLES, Drawn

PAGE = Path(__file__).parents[2] / "docs" / "passes.md"
PICTURE = r"<!-- picture: {} -->\n.*?<!-- end -->"


def _picture(name: str, drawn: Drawn) -> str:
    log = "\n".join(_log(drawn))
    return (
        f"<!-- picture: {name} -->\n```mermaid\n{before_and_after(drawn.before, drawn.after)}\n```\n\n"
        f"```text\n{log}\n```\n<!-- end -->"
    )


def _log(drawn: Drawn) -> list[str]:
    """The lines of `fxedge inspect`, without how far outputs moved, which is another number on each processor."""
    lines = []
    for entry in pass_entries(drawn.report):
        lines.append(f"pass {entry.name}: {plural(entry.changes, 'change')}")
        lines += [f"  note {note}" for note in entry.notes]
        lines += [f"  left alone {skip}" for skip in entry.skipped]
    return lines


def test_every_pass_has_an_example_and_a_section() -> None:
    public = {getattr(fxedge.passes, name).name for name in fxedge.passes.__all__}
    assert set(EXAMPLES) == public
    text = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^## (\S+)$", text, re.MULTILINE) == list(EXAMPLES)
    assert re.findall(r"^\| \[(\S+)\]", text, re.MULTILINE) == list(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_picture_is_what_the_pass_does(name: str, request: pytest.FixtureRequest) -> None:
    drawn = EXAMPLES[name]()
    (result,) = drawn.report.values()
    assert result.changes > 0
    assert result.rolled_back is None
    expected, text = _picture(name, drawn), PAGE.read_text(encoding="utf-8")
    (found,) = re.findall(PICTURE.format(name), text, re.DOTALL)
    if request.config.getoption("--update-golden"):
        PAGE.write_text(text.replace(found, expected), encoding="utf-8")
        return
    assert found == expected, "pytest tests/docs/test_passes.py --update-golden renews the picture, if it is right"
