"""Graphs that torchao's PT2E flow quantized, on every target: lowered with their own parameters, or refused with
all that the target does not take."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from fxedge.backends import registry
from fxedge.backends.base import Backend
from fxedge.compiler.ir.errors import UnsupportedOpsError
from fxedge.compiler.ir.passes import flatten_tensors
from fxedge.compiler.ir.qops import is_quantize
from fxedge.compiler.pipeline.foreign import lower_quantized
from fxedge.compiler.pipeline.lower import FloatModel, prepare
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.pipeline.parity import compare_nodes
from fxedge.compiler.quant.isa import native_spec
from fxedge.compiler.quant.program import computed_by
from fxedge.compiler.quant.simulate import simulate
from fxedge.models import get
from quantized_ops import unsaturated_graph
from torch import Tensor, fx, nn

FAST = CompileOptions(recipe="fast")
BACKENDS = [backend for backend in map(registry.get, registry.names()) if backend.missing() is None]
MAY_REFUSE = {"executorch"}  # its own passes fail on some graphs with all integers shown; the backend says so
FLOW = "torchao.quantization.pt2e.quantize_pt2e"

# Share of the outputs' magnitude by which kernels' roundings may move them from the graph as torch runs it.
LARGEST_ERROR = 0.03


def _inductor() -> Any:
    """uint8 activations, zero points anywhere."""
    module = import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    return module.X86InductorQuantizer().set_global(module.get_default_x86_inductor_quantization_config())


def _xnnpack() -> Any:
    """int8 activations, zero points anywhere; more ops than convolutions and linears."""
    module = import_module("executorch.backends.xnnpack.quantizer.xnnpack_quantizer")
    return module.XNNPACKQuantizer().set_global(module.get_symmetric_quantization_config(is_per_channel=True))


def quantized(model: nn.Module, inputs: tuple[Tensor, ...], quantizer: Callable[[], Any]) -> fx.GraphModule:
    """What the PT2E flow makes of `model`, calibrated on `inputs`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flow = pytest.importorskip(FLOW, reason="needs torchao")
        pytest.importorskip("executorch", reason="needs executorch, which has one of the quantizers")
        shapes = tuple({0: torch.export.Dim.AUTO} for _ in inputs)
        exported = torch.export.export(model, inputs, dynamic_shapes=shapes)
        observed = flow.prepare_pt2e(exported.module(), quantizer())
        observed(*inputs)
        return flow.convert_pt2e(observed)


def check_lowered(backend: Backend, model: FloatModel, wanted: list[Tensor], folder: Path) -> None:
    """Every node within its tolerance, all that is planned as int8 runs so, outputs those of the graph."""
    lowered, inputs = lower_quantized(model, backend.spec, FAST).program, model.examples
    program = computed_by(lowered, native_spec(backend.spec))
    names, arrays = list(program.integer_values()), [value.numpy() for value in inputs]
    plain, exposed = folder / f"{backend.spec.name}_plain", folder / f"{backend.spec.name}_exposed"
    backend.emit(program, plain)
    backend.emit(program, exposed, names)
    assert backend.unfused(program, plain) == ()
    outputs = backend.load(plain).run(arrays)
    values = backend.load(exposed).run(arrays)[len(outputs) :]
    nodes = compare_nodes(program, inputs, dict(zip(names, values, strict=True)))
    assert [node for node in nodes if node.worst > node.allowed] == []
    simulated = simulate(program, inputs).outputs.values()
    for found, own, true in zip(outputs, simulated, wanted, strict=True):
        allowed = LARGEST_ERROR * float(true.abs().max())
        assert float((torch.from_numpy(found) - true).abs().max()) <= allowed
        assert float((own - true).abs().max()) <= allowed


def zero_points(model: FloatModel) -> list[int]:
    """Of each quantize node on activations, as int8."""
    assert model.quantized is not None
    found = [node.args for node in model.quantized.graph.nodes if is_quantize(node)]
    return [args[2] - (128 if args[-1] is torch.uint8 else 0) for args in found]  # type: ignore[operator]


_MORE = ("concat", "se_block", "pools", "split_chunk", "transformer")
NETS = ("residual", "mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in _MORE))


@pytest.mark.parametrize("quantizer", [_inductor, _xnnpack])
@pytest.mark.parametrize("name", NETS)
def test_a_target_lowers_it_as_it_came_or_says_why_not(
    name: str, quantizer: Callable[[], Any], tmp_path: Path
) -> None:
    entry = get(name)
    inputs = entry.example_inputs()
    gm = unsaturated_graph(quantized(entry.factory(), inputs, quantizer))
    with torch.no_grad():
        wanted = flatten_tensors(gm(*inputs))
    model = prepare(gm, inputs, FAST)
    for backend in BACKENDS:
        if not backend.spec.activation.symmetric:
            with nullcontext() if backend.spec.name not in MAY_REFUSE else suppress(UnsupportedOpsError):
                check_lowered(backend, model, wanted, tmp_path)
            continue
        with pytest.raises(UnsupportedOpsError) as caught:
            lower_quantized(model, backend.spec, FAST)
        _, *lines = str(caught.value).splitlines()
        off = [zero_point for zero_point in zero_points(model) if zero_point != 0]
        assert len(lines) == len(off), backend.spec.name
        for line, zero_point in zip(lines, off, strict=True):
            assert line.endswith(f": its zero point is {zero_point}; the target takes 0")
