"""Whole models through the TorchScript backends: parity node by node, any batch, files, errors."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from fxedge import models
from fxedge.backends.fbgemm import backend as fbgemm
from fxedge.backends.onednn import backend as onednn
from fxedge.backends.qnnpack import backend as qnnpack
from fxedge.backends.torchscript.backend import TorchScriptBackend
from fxedge.backends.x86 import backend as x86
from fxedge.compiler.ir.errors import UnsupportedOpsError
from fxedge.compiler.pipeline.calibration import collect
from fxedge.compiler.pipeline.lower import FloatModel, lower, plan_targets, prepare
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.pipeline.parity import compare_nodes
from fxedge.compiler.quant.program import Program, build_program
from quantized_ops import OpCase, qint8, quint8
from torch import Tensor
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
BACKENDS = (fbgemm, x86, onednn, qnnpack)
ENGINES = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.engine)


def program_of(model: FloatModel, batch: tuple[Tensor, ...], backend: TorchScriptBackend) -> Program:
    options = CompileOptions()
    plans = plan_targets(model, [backend.spec], options)
    stats = collect(model, plans, [batch], options)
    return lower(model, backend.spec, plans[backend.engine], stats).program


@pytest.mark.parametrize("name", models.names(full_size=False))
def test_every_small_model_is_exact_node_by_node_at_any_batch(name: str, tmp_path: Path) -> None:
    entry = models.get(name)
    batch = entry.example_inputs()
    model = prepare(entry.factory(), batch, CompileOptions())
    with torch.no_grad():
        expected = tree_leaves(model.gm(*batch))
    for backend in BACKENDS:
        program = program_of(model, batch, backend)
        path = tmp_path / backend.artifact
        exposed = list(program.integer_values())
        backend.emit(program, path, exposed)
        runner = backend.load(path)
        for size in (2, 1, 5):
            inputs = [torch.cat([x] * 3)[:size] for x in batch]
            for _ in range(3):
                results = runner.run([x.numpy() for x in inputs])
            assert len(results) == len(expected) + len(exposed)
            integers = dict(zip(exposed, results[len(expected) :], strict=True))
            assert [node for node in compare_nodes(program, inputs, integers) if node.worst] == []
    for backend in (fbgemm, qnnpack):
        path = tmp_path / f"float_{backend.artifact}"
        backend.emit_float(model.gm, path)
        results = backend.load(path).run([x.numpy() for x in batch])
        for result, wanted in zip(results, expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(result), wanted, rtol=1e-4, atol=1e-5)


@ENGINES
def test_the_same_program_gives_the_same_bytes(backend: TorchScriptBackend, tmp_path: Path) -> None:
    entry = models.get("depthwise")
    batch = entry.example_inputs()
    hashes = set()
    for attempt in ("first", "second"):
        folder = tmp_path / attempt
        folder.mkdir()
        model = prepare(entry.factory(), batch, CompileOptions())
        paths = (folder / backend.artifact, folder / f"float_{backend.artifact}")
        backend.emit(program_of(model, batch, backend), paths[0])
        backend.emit_float(model.gm, paths[1])
        hashes.add(tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths))
    assert len(hashes) == 1


def test_loading_sets_engine_and_threads_of_the_process(tmp_path: Path) -> None:
    case = conv_case()
    threads = torch.get_num_threads()
    for backend in BACKENDS:
        path = tmp_path / backend.artifact
        backend.emit(build_program(case.graph(), backend.spec), path)
        backend.load(path, threads=1)
        assert torch.backends.quantized.engine == backend.engine
        assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)


def test_emitting_leaves_the_engine_as_it_was(tmp_path: Path) -> None:
    torch.backends.quantized.engine = "onednn"
    fbgemm.emit(build_program(conv_case().graph(), fbgemm.spec), tmp_path / "model.pt")
    assert torch.backends.quantized.engine == "onednn"


def test_outputs_are_float_and_exposed_values_integers(tmp_path: Path) -> None:
    case = conv_case()
    program = build_program(case.graph(), x86.spec)
    exposed = list(program.integer_values())
    x86.emit(program, tmp_path / "model.pt", exposed)
    output, *integers = x86.load(tmp_path / "model.pt").run([x.numpy() for x in case.floats()])
    assert output.dtype == np.float32
    assert [value.dtype for value in integers] == [np.uint8, np.uint8]
    np.testing.assert_array_equal(integers[0], case.inputs[0].numpy())


def conv_case() -> OpCase:
    x = torch.randint(0, 256, (1, 8, 5, 5), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    weight = torch.randint(-127, 128, (8, 8, 3, 3), dtype=torch.int32, generator=torch.Generator().manual_seed(1))
    args = ([1, 1], [1, 1], [1, 1], 1)
    qp = qint8(torch.full((8,), 0.01))
    return OpCase(aten.conv2d.default, [x], [quint8(0.02, 7)], quint8(0.5, 100), args, weight, qp)


def test_all_refusals_are_named_at_once(tmp_path: Path) -> None:
    program = build_program(conv_case().graph(), fbgemm.spec)
    broken = []
    for step in program.steps:
        qparams = getattr(step, "out_qparams", None) or getattr(step, "qparams", None)
        narrow = dataclasses.replace(qparams, qmax=127)
        field = "out_qparams" if hasattr(step, "out_qparams") else "qparams"
        broken.append(dataclasses.replace(step, **{field: narrow}))
    with pytest.raises(UnsupportedOpsError) as raised:
        fbgemm.emit(dataclasses.replace(program, steps=tuple(broken)), tmp_path / "model.pt")
    assert str(raised.value) == (
        "2 op(s) cannot be lowered to fbgemm:\n"
        "  quantize_per_tensor_default quantize: activations must be uint8 in [0, 255] with one scale\n"
        "  conv2d_default conv2d.default: activations must be uint8 in [0, 255] with one scale"
    )
    assert not (tmp_path / "model.pt").exists()


def test_missing_engine_says_what_to_do() -> None:
    absent = TorchScriptBackend(fbgemm.spec, "vulkan", fbgemm.roads)
    engines = ", ".join(torch.backends.quantized.supported_engines)
    assert absent.missing() == (
        f"torch {torch.__version__} has no vulkan engine here, only {engines}; use an x86-64 build"
    )
    assert fbgemm.missing() is None


def test_versions_name_the_engine() -> None:
    assert x86.versions() == {
        "torch": torch.__version__,
        "engine": "x86",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
