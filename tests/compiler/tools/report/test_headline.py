"""The first table, and the words of facts."""

from __future__ import annotations

from pathlib import Path

import pytest
from fxedge.compiler.pipeline.bundle import read_bundle
from fxedge.compiler.pipeline.manifest import SaturationEntry, ShareEntry
from fxedge.compiler.tools.report.headline import _ends, make_headline, saturation_text, target_facts
from fxedge.compiler.tools.report.svg import drawing


def test_a_row_for_each_target(explained: Path) -> None:
    manifest = read_bundle(explained)
    with drawing():
        found = make_headline(manifest, (), {"x86": "#t0", "onnx": "#t1"})
    assert [(row.target, row.href) for row in found.rows] == [("x86", "#t0"), ("onnx", "#t1")]
    row = found.rows[1]
    size = manifest.files["onnx/model.onnx"].size
    assert row.size == f"{size / 1e3:.1f} kB"
    assert row.smaller == f"{manifest.files['onnx/float_model.onnx'].size / size:.1f}×"
    assert (row.nodes, row.integer_ops, row.float_ops, row.latency) == ("3/3 exact", 2, 1, "")
    assert row.accuracy is not None
    share = manifest.targets["onnx"].accuracy
    assert share is not None
    assert row.accuracy.text == f"{100 * share.hits / share.total:.1f} %"
    assert row.accuracy.bounds == f"{100 * share.low:.1f} – {100 * share.high:.1f}"


def test_the_scale_holds_every_interval() -> None:
    shares = [ShareEntry(hits=9, total=10, low=0.596, high=0.982), ShareEntry(hits=10, total=10, low=0.72, high=1)]
    assert _ends(shares) == (pytest.approx(0.58), 1.0)
    assert _ends([]) == (0.0, 1.0)


def _proof(**changes: object) -> SaturationEntry:
    fields = {"isa": "avx2", "channels": 10, "proven": 10, "repaired": 0, "largest": 32000, "unsafe": {}}
    return SaturationEntry.model_validate(fields | changes)


@pytest.mark.parametrize(
    ("proof", "text"),
    [
        (_proof(largest=None), "On avx2 the kernels sum in 32 bits: nothing can saturate."),
        (
            _proof(repaired=3),
            "No sum can saturate on avx2: proven for all 10 output channels, 3 channels of them after a repair. "
            "The largest sum of two products that any activations can give is 32000 of 32767.",
        ),
        (
            _proof(proven=8, largest=40000, unsafe={"conv2d": 2}),
            "On avx2, 2 of 10 output channels can saturate in 16 bits; 8 are proven not to. The largest sum of "
            "two products that any activations can give is 40000 of 32767.",
        ),
    ],
)
def test_the_proof_in_words(proof: SaturationEntry, text: str) -> None:
    assert saturation_text(proof) == text


def test_facts_name_every_artifact(explained: Path) -> None:
    facts = dict(target_facts(read_bundle(explained), "x86"))
    assert {"x86/model.pt", "x86/model.ptl", "x86/float_model.pt", "verified in", "output output"} <= set(facts)
    assert "engine x86" in facts["verified in"]
