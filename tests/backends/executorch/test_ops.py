"""Each kernel against XNNPACK's under ExecuTorch: random and extreme integers, all cases of a test in one program.

A program takes seconds to lower, so that a test has one, with an input and an output for each of its cases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fxedge.backends.executorch import backend, inspect
from fxedge.compiler.ir.shapes import annotate
from fxedge.compiler.quant.program import IntegerStep, build_program
from fxedge.compiler.quant.qnodes import insert_constant_dequantize, insert_dequantize, insert_quantize
from fxedge.compiler.quant.qparams import QParams, dequantize
from fxedge.compiler.quant.simulate import simulate
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode

pytestmark = pytest.mark.skipif(backend.missing() is not None, reason=str(backend.missing()))

aten = torch.ops.aten


def int8(scale: float, zero_point: int) -> QParams:
    return QParams((scale,), (zero_point,), -128, 127, torch.int8)


def integers(generator: torch.Generator, size: Sequence[int], extreme: bool = False) -> Tensor:
    values = torch.randint(-128, 128, tuple(size), generator=generator, dtype=torch.int32)
    return torch.where(values >= 0, 127, -128).to(torch.int32) if extreme else values


@dataclass
class Case:
    """One op between dequantize and quantize; `weight` is (integers, scales, bias)."""

    op: OpOverload
    inputs: Sequence[tuple[Tensor, QParams]]
    out: QParams
    args: Sequence[Any] = ()
    weight: tuple[Tensor, Tensor, Tensor | None] | None = None
    activation: tuple[Any, ...] = ()
    listed: bool = False


@dataclass
class Cases:
    """The graph of several cases, run both ways."""

    gm: fx.GraphModule = field(default_factory=lambda: fx.GraphModule(nn.Module(), fx.Graph()))
    mode: FakeTensorMode = field(default_factory=FakeTensorMode)
    floats: list[Tensor] = field(default_factory=list)

    def compare(self, cases: Sequence[Case], folder: Path) -> dict[str, int]:
        """Op kinds that XNNPACK ran on integers, with counts; asserts that the integers are the simulator's."""
        names = self._build(cases)
        program = build_program(self.gm, backend.spec)
        assert [step.name for step in program.steps if isinstance(step, IntegerStep)] == names
        path = folder / "model.pte"
        backend.emit(program, path, names)
        assert backend.unfused(program, path) == ()
        deployed = backend.load(path).run([x.numpy() for x in self.floats])[len(program.outputs) :]
        simulated = simulate(program, self.floats, keep=names).integers
        for case, name, found in zip(cases, names, deployed, strict=True):
            assert found.dtype == np.int8
            off = (simulated[name] - torch.from_numpy(found).to(torch.int32)).abs()
            tolerance = backend.spec.ops[case.op].tolerance
            assert int(off.max()) <= tolerance, f"{case.op} off by {off.max()}, {int((off > 0).sum())} differ"
            assert len(found.reshape(-1)) < 16 or len(torch.from_numpy(found).unique()) > 4, "a test of nothing"
        kinds = [op.kind.removeprefix("XNN") for op in inspect.delegated(path) if op.integer]
        return {kind: kinds.count(kind) for kind in sorted(set(kinds)) if kind != "Convert"}

    def _build(self, cases: Sequence[Case]) -> list[str]:
        placeholders = [[self._input(*given) for given in case.inputs] for case in cases]
        output = self.gm.graph.output(None)
        quantized = [self._case(case, nodes, output) for case, nodes in zip(cases, placeholders, strict=True)]
        results = zip(quantized, cases, strict=True)
        output.args = (tuple(insert_dequantize(self.gm, node, case.out, output) for node, case in results),)
        self.gm.recompile()
        annotate(self.gm)
        return [node.name for node in quantized]

    def _input(self, x: Tensor, qp: QParams) -> fx.Node:
        node = self.gm.graph.placeholder(f"x{len(self.floats)}")
        self.floats.append(dequantize(x, qp))
        node.meta["val"] = self.mode.from_tensor(self.floats[-1], static_shapes=True)
        return node

    def _case(self, case: Case, nodes: list[fx.Node], output: fx.Node) -> fx.Node:
        with self.gm.graph.inserting_before(output):
            last = anchor = self.gm.graph.call_function(case.op, ())
            if case.activation:
                last = self.gm.graph.call_function(case.activation[0], (anchor, *case.activation[1:]))
        operands: list[Any] = []
        for node, (_, qp) in zip(nodes, case.inputs, strict=True):
            operands.append(insert_dequantize(self.gm, insert_quantize(self.gm, node, qp), qp, anchor))
        anchor.args = (*([operands] if case.listed else operands), *self._weight(case, anchor), *case.args)
        return insert_quantize(self.gm, last, case.out)

    def _weight(self, case: Case, anchor: fx.Node) -> tuple[fx.Node | None, ...]:
        if case.weight is None:
            return ()
        values, scales, bias = case.weight
        qp = QParams(tuple(scales.tolist()), (0,) * len(scales), -127, 127, torch.int8, _axis(scales))
        stored = insert_constant_dequantize(self.gm, "weight", values, qp, anchor)
        if bias is None:
            return stored, None
        product = scales * case.inputs[0][1].scale_tensor()
        bias_qp = QParams(tuple(product.tolist()), qp.zero_point, -(2**31), 2**31 - 1, torch.int32, qp.axis)
        return stored, insert_constant_dequantize(self.gm, "bias", bias, bias_qp, anchor)


def _axis(scales: Tensor) -> int | None:
    return 0 if len(scales) > 1 else None


def product(
    generator: torch.Generator,
    op: OpOverload,
    size: Sequence[int],
    weight_size: Sequence[int],
    args: Sequence[Any] = (),
    *,
    extreme: bool = False,
    per_tensor: bool = False,
    bias: bool = True,
    outputs: int | None = None,
    activation: tuple[Any, ...] = (),
) -> Case:
    """A layer whose results fill the integers and saturate here and there."""
    outputs = outputs or weight_size[0]
    weight = integers(generator, weight_size, extreme).clamp(min=-127)
    scales = torch.rand(1 if per_tensor else outputs, generator=generator) * 0.02 + 0.001
    scale = float(0.031 * scales.mean() * 73 * max(weight[0].numel(), 8) ** 0.5 * 1.7)
    added = torch.randint(-20_000, 20_000, (outputs,), generator=generator, dtype=torch.int32) if bias else None
    given = (integers(generator, size, extreme), int8(0.031, -7))
    return Case(op, [given], int8(scale, 11), args, (weight, scales, added), activation)


CONV, CONV1D, DECONV = aten.conv2d.default, aten.conv1d.default, aten.conv_transpose2d.input
RELU, HARDTANH = (aten.relu.default,), (aten.hardtanh.default, -1.0, 2.0)


def test_convolutions(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(1)
    cases = [
        product(g, CONV, (2, 3, 17, 17), (16, 3, 3, 3), [[2, 2], [1, 1], [1, 1], 1]),
        product(g, CONV, (2, 16, 9, 9), (16, 16, 3, 3), [[1, 1], [1, 1], [1, 1], 1], extreme=True),
        product(g, CONV, (1, 16, 9, 11), (24, 16, 1, 1), [[1, 1], [0, 0], [1, 1], 1], activation=RELU),
        product(g, CONV, (2, 20, 9, 9), (20, 1, 3, 3), [[1, 1], [1, 1], [1, 1], 20], activation=HARDTANH),
        product(g, CONV, (2, 32, 9, 9), (32, 1, 3, 3), [[2, 2], [1, 1], [1, 1], 32], extreme=True),
        product(g, CONV, (1, 17, 9, 9), (17, 1, 5, 5), [[2, 2], [2, 2], [1, 1], 17]),
        product(g, CONV, (2, 8, 9, 9), (16, 1, 3, 3), [[1, 1], [1, 1], [1, 1], 8]),
        product(g, CONV, (2, 24, 9, 9), (36, 8, 3, 3), [[2, 2], [1, 1], [1, 1], 3]),
        product(g, CONV, (1, 8, 13, 13), (9, 8, 3, 3), [[1, 1], [2, 2], [2, 2], 1]),
        product(g, CONV, (1, 960, 5, 5), (33, 960, 1, 1), [[1, 1], [0, 0], [1, 1], 1], bias=False),
        product(g, CONV, (1, 8, 13, 13), (9, 8, 3, 3), [[1, 1], [1, 1], [1, 1], 1], per_tensor=True),
        product(g, CONV1D, (2, 8, 33), (7, 8, 5), [[1], [2], [1], 1]),
    ]
    expected = {"Conv2d": 8, "DepthwiseConv2d": 4}
    assert expected.items() <= Cases().compare(cases, tmp_path).items()


def test_linear_and_transposed_convolutions(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(2)
    transposed: dict[str, Any] = {"per_tensor": True, "outputs": 6}
    cases = [
        product(g, aten.linear.default, (5, 64), (10, 64)),
        product(g, aten.linear.default, (2, 7, 48), (33, 48), activation=RELU),
        product(g, aten.linear.default, (5, 512), (17, 512), extreme=True, bias=False),
        product(g, DECONV, (2, 8, 9, 9), (8, 6, 2, 2), [[2, 2], [0, 0], [0, 0], 1, [1, 1]], **transposed),
        product(g, DECONV, (2, 8, 9, 9), (8, 3, 3, 3), [[2, 2], [1, 1], [1, 1], 2, [1, 1]], **transposed),
    ]
    expected = {"ConvTranspose2d": 2, "FullyConnected": 3}
    assert expected.items() <= Cases().compare(cases, tmp_path).items()


def binary(g: torch.Generator, op: OpOverload, spread: float, activation: tuple[Any, ...] = ()) -> Case:
    scales = (torch.rand(2, generator=g) * 0.05 + 0.002).tolist()
    points = torch.randint(-100, 100, (3,), generator=g).tolist()
    real = scales[0] * scales[1] * 150 if op is aten.mul.Tensor else sum(scales)
    given = [(integers(g, (2, 8, 13, 7)), int8(*qp)) for qp in zip(scales, points, strict=False)]
    return Case(op, given, int8(real * spread, points[2]), activation=activation)


def test_sums_and_products(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(3)
    ops = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor)
    cases = [binary(g, op, spread) for op in ops for spread in (0.4, 0.9)]
    cases += [binary(g, op, 0.6, RELU) for op in ops]
    cases += [binary(g, op, 0.6, (aten.hardtanh.default, -0.5, 1.0)) for op in ops]
    assert Cases().compare(cases, tmp_path) == {"Add": 4, "Multiply": 4, "Subtract": 4}


def shared(g: torch.Generator, op: OpOverload, *args: Any, count: int = 0) -> Case:
    qp = int8(0.04, -5)
    given = [(integers(g, (2, 8, 12, 16)), qp) for _ in range(max(count, 1))]
    return Case(op, given, qp, args, listed=count > 0)


def test_what_moves_selects_or_bounds_integers(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(4)
    cases = [
        shared(g, aten.cat.default, 1, count=2),
        shared(g, aten.max_pool2d.default, [3, 3], [2, 2], [1, 1]),
        shared(g, aten.relu.default),
        shared(g, aten.hardtanh.default, -1.0, 2.0),
        shared(g, aten.clamp.default, None, 2.0),
        shared(g, aten.constant_pad_nd.default, [1, 2, 0, 1]),
        shared(g, aten.permute.default, [0, 2, 3, 1]),
        shared(g, aten.transpose.int, 1, 2),
        shared(g, aten.flatten.using_ints, 1),
        shared(g, aten.slice.Tensor, 1, 2, 6),
        shared(g, aten.slice.Tensor, 3, 0, 2**63 - 1, 2),
    ]
    assert Cases().compare(cases, tmp_path) == {
        "Clamp": 3,
        "Concatenate2": 1,
        "DepthwiseConv2d": 1,
        "MaxPooling2d": 1,
        "StaticConstantPad": 1,
        "StaticReshape": 1,
        "StaticSlice": 1,
        "StaticTranspose": 8,
    }


def test_means(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(5)
    shapes = [((2, 32, 7, 7), True), ((2, 20, 13, 9), False), ((1, 1280, 7, 7), True)]
    cases = [
        Case(aten.mean.dim, [(integers(g, size), int8(0.05, -20))], int8(0.006, 3), ([2, 3], keep))
        for size, keep in shapes
    ]
    given = (integers(g, (2, 16, 8, 8)), int8(0.05, -20))
    cases.append(Case(aten.adaptive_avg_pool2d.default, [given], int8(0.006, 3), ([1, 1],)))
    assert Cases().compare(cases, tmp_path)["FullyConnected"] == 4


FUNCTIONS: dict[OpOverload, tuple[Callable[[float, int], QParams], tuple[Any, ...]]] = {
    aten.sigmoid.default: (lambda scale, point: int8(1 / 256, -128), ()),
    aten.tanh.default: (lambda scale, point: int8(1 / 128, 0), ()),
    aten.hardsigmoid.default: (lambda scale, point: int8(1 / 256, -128), ()),
    aten.hardswish.default: (int8, ()),
    aten.silu.default: (int8, ()),
    aten.gelu.default: (int8, ()),
    aten.leaky_relu.default: (int8, (0.1,)),
}


def test_functions_of_one_value(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(6)
    grid = torch.arange(-128, 128, dtype=torch.int32).reshape(1, 4, 8, 8)
    cases = []
    for op, (out, args) in FUNCTIONS.items():
        for ratio in (0.5, 0.8, 1.1):
            scale, point = float(torch.rand(1, generator=g) * 0.08 + 0.005), int(torch.randint(-90, 90, (1,)))
            cases.append(Case(op, [(grid, int8(scale, point))], out(scale * ratio, -point), args))
    kinds = {
        "DepthwiseConv2d": 3,
        "Gelu": 3,
        "Hardswish": 3,
        "LeakyReLU": 3,
        "Multiply": 3,
        "Sigmoid": 6,
        "StaticTranspose": 9,
        "Tanh": 3,
    }
    assert Cases().compare(cases, tmp_path) == kinds
