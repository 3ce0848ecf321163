"""A real network compiled for avx2 gives the same integers without VNNI; one compiled for vnni does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from emulated.processes import AVX2, HASWELL, needs_qemu, run_elsewhere
from fxedge import CompileOptions, open_dataset
from fxedge.backends import registry
from fxedge.compiler.pipeline.calibration import collect
from fxedge.compiler.pipeline.lower import lower, plan_targets, prepare
from fxedge.compiler.quant.collectors import CollectorMethod
from fxedge.compiler.quant.simulate import simulate

from .compiling import REAL_NETS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.mark.parametrize("target", ["onnx", "fbgemm"])
def test_resnet20_without_vnni(target: str, shared_data: Path, tmp_path: Path):
    if target == "onnx":
        needs_qemu()
    net, backend = REAL_NETS["cifar10_resnet20"], registry.get(target)
    data = open_dataset(shared_data / net.test, net.preprocess, ["x"], 32)
    (images,) = next(iter(data)).inputs
    artifacts, wanted = {}, {}
    for isa in ("avx2", "vnni"):
        options = CompileOptions(CollectorMethod("minmax"), recipe="fast", isa=isa)
        model = prepare(net.factory(), (images[:2],), options)
        plans = plan_targets(model, [backend.spec], options)
        stats = collect(model, plans, [(images,)], options)
        path = tmp_path / f"{isa}-{backend.artifact}"
        program = lower(model, backend.spec, plans[target], stats, options).program
        backend.emit(program, path)
        artifacts[path] = [images[:4].numpy()]
        (wanted[path],) = (value.numpy() for value in simulate(program, (images[:4],)).outputs.values())
    where = {"emulator": HASWELL} if target == "onnx" else {"environment": AVX2}
    there = run_elsewhere(target, artifacts, **where)  # type: ignore[arg-type]
    same = [bool(np.array_equal(wanted[path], there[path][0])) for path in artifacts]
    assert same == [True, False]
