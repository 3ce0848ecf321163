"""int8 activations become uint8, with the same numbers."""

from __future__ import annotations

import dataclasses
from textwrap import dedent

import torch
from fxedge.backends.fbgemm import backend as fbgemm
from fxedge.backends.tensorrt import backend as tensorrt
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.passes import PassContext, PassResult, Skip, run_passes
from fxedge.compiler.quant.program import build_program
from fxedge.compiler.quant.qparams import QParams
from fxedge.passes.shift_activations import ShiftActivations
from quantized_ops import OpCase, integer_steps, quint8
from torch import fx

aten = torch.ops.aten
X = torch.arange(24, dtype=torch.int32).reshape(2, 3, 4)


def qint8(scale: float, zero_point: int, low: int = -128, high: int = 127) -> QParams:
    return QParams((scale,), (zero_point,), low, high, torch.int8)


def graph(*qparams: QParams) -> fx.GraphModule:
    return OpCase(aten.add.Tensor, [X, X], qparams[:2], qparams[2]).graph()


def context(gm: fx.GraphModule) -> PassContext:
    return PassContext(target=fbgemm.spec, example_inputs=(torch.randn(2, 3, 4), torch.randn(2, 3, 4)))


def test_zero_points_and_bounds_move() -> None:
    gm = graph(qint8(0.1, -5), qint8(0.2, 7), qint8(0.3, -128))
    assert integer_steps(build_program(gm, fbgemm.spec)) == []
    report = run_passes(gm, [ShiftActivations()], context(gm))
    assert report["shift-activations"] == PassResult(3)
    assert dump(gm) == dedent("""\
        %0 = input x0
        %1 = input x1
        %2 = quantized_decomposed.quantize_per_tensor.default(%1, 0.200000003, 135, 0, 255, uint8)
        %3 = quantized_decomposed.quantize_per_tensor.default(%0, 0.100000001, 123, 0, 255, uint8)
        %4 = quantized_decomposed.dequantize_per_tensor.default(%3, 0.100000001, 123, 0, 255, uint8)
        %5 = quantized_decomposed.dequantize_per_tensor.default(%2, 0.200000003, 135, 0, 255, uint8)
        %6 = add.Tensor(%4, %5)
        %7 = quantized_decomposed.quantize_per_tensor.default(%6, 0.300000012, 0, 0, 255, uint8)
        %8 = quantized_decomposed.dequantize_per_tensor.default(%7, 0.300000012, 0, 0, 255, uint8)
        return %8""")
    assert len(integer_steps(build_program(gm, fbgemm.spec))) == 1
    assert run_passes(gm, [ShiftActivations()], context(gm))["shift-activations"] == PassResult(0)


def test_narrowed_bounds_stay_narrow() -> None:
    gm = graph(qint8(0.1, -5, -127, 127), quint8(0.2, 7), quint8(0.3, 0))
    assert run_passes(gm, [ShiftActivations()], context(gm))["shift-activations"].changes == 1
    assert "quantize_per_tensor.default(%0, 0.100000001, 123, 1, 255, uint8)" in dump(gm)


def test_integers_that_the_graph_gives_back_stay() -> None:
    gm = graph(qint8(0.1, -5), qint8(0.2, 7), qint8(0.3, 1))
    output = next(iter(reversed(gm.graph.nodes)))
    output.args = (output.args[0].args[0],)
    gm.recompile()
    report = run_passes(gm, [ShiftActivations()], context(gm))
    skip = Skip("quantize_per_tensor_default_2", "the graph gives back its integers")
    assert report["shift-activations"] == PassResult(2, (skip,))


def test_the_middle_of_uint8_is_what_a_symmetric_target_takes() -> None:
    gm = graph(quint8(0.1, 128), quint8(0.2, 128), quint8(0.3, 128))
    ctx = dataclasses.replace(context(gm), target=tensorrt.spec)
    assert run_passes(gm, [ShiftActivations()], ctx)["shift-activations"] == PassResult(3)
    assert "quantize_per_tensor.default(%0, 0.100000001, 0, -128, 127, int8)" in dump(gm)
    assert len(integer_steps(build_program(gm, tensorrt.spec))) == 1
