"""What the target says of itself, and what its artifact is."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from engine_cases import convolution
from fxedge.backends import registry
from fxedge.backends.qnnpack import backend
from fxedge.backends.torchscript.deprecated import quiet
from fxedge.compiler.quant.isa import choose_isa
from fxedge.compiler.quant.program import build_program
from fxedge.compiler.quant.qparams import QSpec


def test_spec() -> None:
    spec = backend.spec
    assert registry.get("qnnpack") is backend
    assert (spec.name, spec.bias, backend.engine, backend.artifact) == (
        "qnnpack",
        "int32",
        "qnnpack",
        "model.ptl",
    )
    assert spec.activation == QSpec(0, 255, torch.uint8)
    assert spec.weight == QSpec(-127, 127, torch.int8, symmetric=True, per_channel=True)


@pytest.mark.parametrize("isa", ["avx2", "vnni", "neon"])
def test_sums_have_32_bits_on_every_instruction_set(isa: str) -> None:
    assert choose_isa(backend.spec, isa) == isa
    assert backend.spec.saturation[isa] is None


def test_the_artifact_runs_in_the_lite_interpreter_and_in_torch(tmp_path: Path) -> None:
    case = convolution("3x3", "random")
    path = tmp_path / backend.artifact
    backend.emit(build_program(case.graph(), backend.spec), path)
    with zipfile.ZipFile(path) as archive:
        assert any(name.endswith("/bytecode.pkl") for name in archive.namelist())
    (lite,) = backend.load(path).run([x.numpy() for x in case.floats()])
    with quiet():
        full = torch.jit.load(str(path))(*case.floats())
    assert torch.equal(torch.from_numpy(lite), full)


@pytest.mark.parametrize("name", ["fbgemm", "x86", "onednn"])
def test_the_other_engines_have_a_ptl_beside_their_artifact(name: str, tmp_path: Path) -> None:
    other = registry.get(name)
    assert other.spec.also == ("model.ptl",)
    case = convolution("depthwise 24", "random")
    program = build_program(case.graph(), other.spec)
    results = []
    for file in (other.artifact, *other.spec.also):
        other.emit(program, tmp_path / file)
        results += other.load(tmp_path / file).run([x.numpy() for x in case.floats()])
    assert (results[0] == results[1]).all()
