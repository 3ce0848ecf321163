"""QUANTIZED graphs of one op, built by hand and run both ways: simulated, and in the runtime."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from fxedge.backends.torchscript.backend import TorchScriptBackend
from fxedge.compiler.ir.constants import constant, set_constant
from fxedge.compiler.ir.qops import is_dequantize
from fxedge.compiler.ir.shapes import annotate
from fxedge.compiler.quant.isa import native_isa, native_spec
from fxedge.compiler.quant.program import IntegerStep, Program, build_program, computed_by
from fxedge.compiler.quant.qnodes import insert_constant_dequantize, insert_dequantize, insert_quantize
from fxedge.compiler.quant.qparams import QParams, dequantize
from fxedge.compiler.quant.simulate import simulate
from fxedge.compiler.quant.target import TargetSpec
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode

aten = torch.ops.aten


def quint8(scale: float, zero_point: int) -> QParams:
    return QParams((scale,), (zero_point,), 0, 255, torch.uint8)


def qint8(scale: Tensor, axis: int | None = 0) -> QParams:
    scales = tuple(scale.tolist())
    return QParams(scales, (0,) * len(scales), -127, 127, torch.int8, axis)


@dataclass
class OpCase:
    """One op on integers, between the dequantized inputs (and weight) and its result; a tensor among `args` or the
    arguments of `activation` is a constant."""

    op: OpOverload
    inputs: Sequence[Tensor]
    in_qparams: Sequence[QParams]
    out_qparams: QParams
    args: Sequence[Any] = ()
    weight: Tensor | None = None
    weight_qparams: QParams | None = None
    bias: Tensor | None = None
    listed: bool = False
    piece: int | None = None
    activation: tuple[Any, ...] = field(default=())

    def floats(self) -> list[Tensor]:
        """The float inputs that quantize to `inputs`."""
        return [dequantize(x, qp) for x, qp in zip(self.inputs, self.in_qparams, strict=True)]

    def graph(self) -> fx.GraphModule:
        gm = fx.GraphModule(nn.Module(), fx.Graph())
        mode = FakeTensorMode()
        nodes = []
        for index, (value, qp) in enumerate(zip(self.floats(), self.in_qparams, strict=True)):
            node = gm.graph.placeholder(f"x{index}")
            node.meta["val"] = mode.from_tensor(value, static_shapes=True)
            nodes.append((node, qp))
        anchor = gm.graph.call_function(self.op, ())
        output = gm.graph.output(None)
        anchor.args = self._arguments(gm, anchor, nodes)
        last = anchor
        with gm.graph.inserting_before(output):
            if self.piece is not None:
                last = gm.graph.call_function(operator.getitem, (anchor, self.piece))
            if self.activation:
                constants = _constants(gm, self.activation[1:])
                last = gm.graph.call_function(self.activation[0], (last, *constants))
        quantized = insert_quantize(gm, last, self.out_qparams)
        output.args = (insert_dequantize(gm, quantized, self.out_qparams, output),)
        gm.recompile()
        annotate(gm)
        return gm

    def _arguments(
        self, gm: fx.GraphModule, anchor: fx.Node, nodes: list[tuple[fx.Node, QParams]]
    ) -> tuple[Any, ...]:
        operands: list[Any] = []
        for node, qp in nodes:
            operands.append(insert_dequantize(gm, insert_quantize(gm, node, qp), qp, anchor))
        if self.listed:
            operands = [operands]
        if self.weight is not None:
            assert self.weight_qparams is not None
            operands.append(insert_constant_dequantize(gm, "weight", self.weight, self.weight_qparams, anchor))
            bias = None
            if self.bias is not None:
                gm.register_buffer("bias", self.bias)
                with gm.graph.inserting_before(anchor):
                    bias = gm.graph.get_attr("bias")
            operands.append(bias)
        with gm.graph.inserting_before(anchor):
            return (*operands, *_constants(gm, self.args))


def _constants(gm: fx.GraphModule, args: Sequence[Any]) -> list[Any]:
    """`args` with a stored constant for each tensor."""
    stored: list[Any] = []
    for index, arg in enumerate(args):
        if isinstance(arg, Tensor):
            gm.register_buffer(f"constant_{index}", arg)
            arg = gm.graph.get_attr(f"constant_{index}")
        stored.append(arg)
    return stored


def unsaturated(case: OpCase, spec: TargetSpec) -> OpCase:
    """`case` with half its weights where this machine's kernels sum pairs of products in 16 bits."""
    if case.weight is None or spec.saturation.get(native_isa()) is None:
        return case
    return replace(case, weight=halved(case.weight))


def unsaturated_graph(gm: fx.GraphModule) -> fx.GraphModule:
    """Another function, with half its int8 constants, where this machine's kernels sum pairs of products in 16
    bits."""
    for node in gm.graph.nodes if native_isa() == "avx2" else ():
        stored = constant(gm, node.args[0]) if is_dequantize(node) else None
        if stored is not None and stored.dtype is torch.int8:
            set_constant(gm, node.args[0].target, halved(stored))
    return gm


def halved(weight: Tensor) -> Tensor:
    """Integers of at most 63, two of which do not saturate in int16: 255 · 126 < 2^15."""
    return weight.div(2, rounding_mode="trunc").to(weight.dtype)


def off_by(case: OpCase, backend: TorchScriptBackend, folder: Path, runs: int = 3) -> Tensor:
    """Simulated minus deployed integers of the op, from the last of `runs` runs: the executor optimizes later."""
    case = unsaturated(case, backend.spec)
    program = computed_by(build_program(case.graph(), backend.spec), native_spec(backend.spec))
    (step,) = integer_steps(program)
    path = folder / backend.artifact
    backend.emit(program, path, [step.name])
    runner = backend.load(path)
    for _ in range(runs):
        deployed = runner.run([x.numpy() for x in case.floats()])[-1]
    simulated = simulate(program, case.floats(), keep=[step.name]).integers[step.name]
    assert tuple(deployed.shape) == tuple(simulated.shape)
    return simulated - torch.from_numpy(deployed).to(torch.int32)


def integer_steps(program: Program) -> list[IntegerStep]:
    return [step for step in program.steps if isinstance(step, IntegerStep)]


def spread(real: Tensor, zero_point: int) -> QParams:
    """Output parameters under which most of `real` falls inside [0, 255] and some outside."""
    return quint8(max(float(real.std()) / 40, 1e-4), zero_point)
