"""A BERT encoder on integers: what int8 loses without and with SmoothActivations; any length under ExecuTorch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from fxedge import CompileOptions, compile_model, from_arrays
from fxedge.backends import registry
from fxedge.compiler.ir.passes import PassContext, run_passes
from fxedge.compiler.ir.shapes import annotate
from fxedge.compiler.pipeline.calibration import collect
from fxedge.compiler.pipeline.lower import FloatModel, lower, plan_targets, prepare
from fxedge.passes import SmoothActivations
from real.minilm import Encode, embeddings, minilm, sentences, spearman
from torch import Tensor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

PAIRS = 64
OPTIONS = CompileOptions(recipe="fast", dynamic_axes=(0, 1))


@pytest.fixture(scope="module")
def calibration(shared_data: Path) -> list[tuple[Tensor, Tensor]]:
    return [*sentences("a", 1400, 1416), *sentences("b", 1400, 1416)]


def _encoder(model: FloatModel, target: str, batches: list[tuple[Tensor, Tensor]], folder: Path) -> Encode:
    backend = registry.get(target)
    plans = plan_targets(model, [backend.spec], OPTIONS)
    program = lower(model, backend.spec, plans[target], collect(model, plans, batches, OPTIONS), OPTIONS).program
    backend.emit(program, folder / target)
    assert backend.unfused(program, folder / target) == ()
    runner = backend.load(folder / target)
    return lambda ids, mask: runner.run([ids.numpy(), mask.numpy()])[0]


def _off(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean()))


@pytest.mark.parametrize("target", ["onnx", "x86"])
def test_smoothing_a_bert_encoder(target: str, calibration: list[tuple[Tensor, Tensor]], tmp_path: Path) -> None:
    model = minilm()
    with torch.no_grad():
        wanted = embeddings(lambda ids, mask: model(ids, mask).numpy(), PAIRS)
    prepared = prepare(model, calibration[0], OPTIONS)
    plain = embeddings(_encoder(prepared, target, calibration, tmp_path), PAIRS)
    ctx = PassContext(example_inputs=calibration[0], batches=lambda: iter(calibration))
    report = run_passes(prepared.gm, [SmoothActivations()], ctx)["smooth-activations"]
    annotate(prepared.gm)
    smooth = embeddings(_encoder(prepared, target, calibration, tmp_path), PAIRS)
    assert (report.changes, report.rolled_back) == (24, None)
    assert _off(smooth, wanted) < 0.15
    assert _off(smooth, wanted) < 0.5 * _off(plain, wanted)
    assert abs(spearman(smooth) - spearman(wanted)) < 0.01


@pytest.mark.skipif(registry.get("executorch").missing() is not None, reason="executorch is not installed")
def test_sentences_of_any_length_under_executorch(
    calibration: list[tuple[Tensor, Tensor]], tmp_path: Path
) -> None:
    model, bundle = minilm(), tmp_path / "bundle"
    with torch.no_grad():
        wanted = embeddings(lambda ids, mask: model(ids, mask).numpy(), PAIRS)
    data = from_arrays(calibration, input_names=("ids", "mask"))
    options = dataclasses.replace(OPTIONS, timed_runs=0, parity_samples=2)
    report = compile_model(model, data, ["executorch"], bundle, options=options)
    assert report.manifest is not None
    entry = report.manifest.targets["executorch"]
    assert "XNNPACK delegate" in " ".join(entry.notes)
    runner = registry.get("executorch").load(bundle / entry.artifact)
    found = embeddings(lambda ids, mask: runner.run([ids.numpy(), mask.numpy()])[0], PAIRS)
    assert abs(spearman(found) - spearman(wanted)) < 0.01
