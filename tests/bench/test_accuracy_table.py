"""The accuracy table: its rows can be compiled, its figures are right on known answers, tables find a place."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from bench.accuracy_table import NAMES, TABLES, against_clipping, score
from bench.rows import AVX2_ROWS, ISA_ROWS, ROWS, Row
from bench.workshop import replace_table
from fxedge.backends import registry
from fxedge.compiler.pipeline.recipes import RECIPES
from fxedge.compiler.quant.isa import choose_isa
from real.judged import JUDGED
from real.measuring import Setting, in_own_process, kept

ROOT = Path(__file__).parents[2]


def test_rows_have_names_of_their_own() -> None:
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("row", [*ROWS, *AVX2_ROWS], ids=lambda row: row.name)
def test_each_row_can_be_compiled_and_judged(row: Row) -> None:
    assert row.net in JUDGED
    assert row.recipe in RECIPES
    assert row.goal > (50 if row.metric == "agreement" else 0)
    assert all(choose_isa(registry.get(target).spec, row.isa) == row.isa for target in row.targets)
    naive, found = row.setting("onnx", naive=True), row.setting("onnx")
    assert dataclasses.replace(naive, recipe=found.recipe) == found
    assert found.synthetic == (row.recipe == "data-free")


def test_splitting_is_compared_with_clipping_on_the_same_images() -> None:
    """Of 8 images clipping has 6 right, the best of splitting alone 7, and both together 5."""
    right = {"clip": 6, "split 1 %": 5, "split 2 %": 7, "clip + split 1 %": 5}
    cells = {name: {"classes": [1] * count + [2] * (8 - count)} for name, count in right.items()}
    top1, agreement = against_clipping({"cells": cells, "labels": [1] * 8, "float": [1] * 7 + [2]})
    ahead = "split 2 %; split 2 % is ahead of it by 12.5 [0.0, 37.5]"
    assert top1 == f"by top-1, at least as good as clipping (75.0): {ahead}"
    assert agreement == f"by agreement, at least as good as clipping (87.5): {ahead}"


def test_each_row_of_instruction_sets_can_be_compiled() -> None:
    for row in ISA_ROWS:
        assert row.net in JUDGED
        spec = registry.get(row.target).spec
        assert [choose_isa(spec, row.setting(isa, images=1).isa) for isa in ("vnni", "avx2")] == ["vnni", "avx2"]


ROW = Row("name", "net", "default", "top-1", 1.5)
LABELS = [0] * 100
RIGHT, MISSES = [0] * 80 + [1] * 20, [0] * 70 + [1] * 30


def test_figures_of_known_answers() -> None:
    scores = score(ROW, LABELS, RIGHT, [1] * 100, MISSES)
    assert (scores.float, scores.naive, scores.reached.value) == (80, 0, 70)
    assert scores.below.value == pytest.approx(10)
    # paired: of 100 images 10 differ, so 10 ± 1.96 · 3; unpaired it would be ± 12
    assert (scores.below.low, scores.below.high) == pytest.approx((4.1, 15.9), abs=1.1)


def test_agreement_is_with_float_and_not_with_the_labels() -> None:
    scores = score(dataclasses.replace(ROW, metric="agreement"), LABELS, RIGHT, LABELS, RIGHT)
    assert scores.reached.format() == "100.0 [100.0, 100.0]"
    assert scores.naive == 80


@pytest.mark.parametrize(
    ("metric", "figure", "reached"),
    [("top-1", 78.5, True), ("top-1", 78.4, False), ("agreement", 1.5, True), ("agreement", 1.4, False)],
)
def test_what_must_be_reached(metric: str, figure: float, reached: bool) -> None:
    row = dataclasses.replace(ROW, metric=metric)  # type: ignore[arg-type]
    assert row.reached(figure, 80.0) is reached


def test_each_setting_is_kept_under_a_name_of_its_own() -> None:
    plain = Setting("net", "onnx", "fast", False, "vnni")
    other = Setting("net2", "x86", "best", True, "avx2", True, 8, 5, 1, 60, 4)
    changed = [dataclasses.replace(plain, **{f.name: getattr(other, f.name)}) for f in dataclasses.fields(plain)]
    assert len({setting.file for setting in [plain, *changed]}) == 1 + len(changed)


def test_a_measurement_is_made_once(tmp_path: Path) -> None:
    made: list[int] = []
    for _ in range(2):
        assert kept(tmp_path / "a.json", lambda: made.append(1) or {"b": 1}) == {"b": 1}
    assert made == [1]
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": 1}


def test_a_process_of_its_own() -> None:
    assert in_own_process(json.dumps, [1]) == "[1]"


def test_tables_go_between_their_markers() -> None:
    document = "a\n<!-- isa:begin -->\nold\n<!-- isa:end -->\nb\n<!-- rows:begin -->\n<!-- rows:end -->\n"
    once = replace_table(document, "isa", "new")
    assert once == document.replace("old", "new")
    assert replace_table(once, "isa", "new") == once
    with pytest.raises(ValueError, match="the document needs the lines") as caught:
        replace_table(document, "x", "new")
    wanted = "the document needs the lines <!-- x:begin --> and <!-- x:end -->, once each and in this order"
    assert str(caught.value) == wanted


def test_the_document_has_every_table() -> None:
    document = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8")
    assert re.findall(r"<!-- (\S+):begin -->", document) == list(TABLES)
    for name in TABLES:
        assert "new" in replace_table(document, name, "new")
