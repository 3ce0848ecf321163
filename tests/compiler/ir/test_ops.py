"""The op table, bound arguments, clamp bounds and names."""

from __future__ import annotations

import operator

import pytest
import torch
from fxedge.compiler.ir.ops import CONV, CONV_TRANSPOSE, OPS, aten, bound_args, clamp_bounds, op_name
from fxedge.compiler.ir.qops import DQ, Q
from torch import fx

INF = float("inf")


def _call(target: object, *args: object, **kwargs: object) -> fx.Node:
    graph = fx.Graph()
    return graph.call_function(target, (graph.placeholder("x"), *args), kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", OPS, ids=op_name)
def test_positions_are_those_of_the_schema(target: torch._ops.OpOverload) -> None:
    info, names = OPS[target], [argument.name for argument in target._schema.arguments]
    assert names[info.weight] == "weight"
    assert names[info.bias] == "bias"
    if info.groups is not None:
        assert names[info.groups] == "groups"
    assert (info.out_axis == 1) == (target in CONV_TRANSPOSE)
    assert (info.spatial > 0) == (target in CONV | CONV_TRANSPOSE)


def test_bound_args_fills_in_defaults() -> None:
    bound = bound_args(_call(aten.conv2d.default, "w", stride=[2, 2]))
    assert bound | {"input": None} == {
        "input": None,
        "weight": "w",
        "bias": None,
        "stride": [2, 2],
        "padding": [0, 0],
        "dilation": [1, 1],
        "groups": 1,
    }


def test_bound_args_of_a_python_operator_are_numbered() -> None:
    assert bound_args(_call(operator.getitem, 1))["1"] == 1


@pytest.mark.parametrize(
    ("target", "args", "bounds"),
    [
        (aten.relu.default, (), (0, INF)),
        (aten.hardtanh.default, (), (-1, 1)),
        (aten.hardtanh.default, (0, 6.0), (0, 6)),
        (aten.clamp.default, (None, 3), (-INF, 3)),
        (aten.clamp.default, (-2,), (-2, INF)),
        (aten.sigmoid.default, (), None),
        (aten.leaky_relu.default, (), None),
    ],
)
def test_clamp_bounds(target: object, args: tuple[object, ...], bounds: tuple[float, float] | None) -> None:
    assert clamp_bounds(_call(target, *args)) == bounds


def test_op_name() -> None:
    assert op_name(aten.conv_transpose2d.input) == "conv_transpose2d.input"
    assert op_name(Q) == "quantized_decomposed.quantize_per_tensor.default"
    assert op_name(operator.getitem) == "getitem"


def test_quantize_ops_round_half_to_even_and_clamp() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, 300.0, -300.0])
    integers = Q(x, 1.0, 3, -128, 127, torch.int8)
    assert integers.tolist() == [3, 5, 5, 127, -128]
    assert DQ(integers, 1.0, 3, -128, 127, torch.int8).tolist() == [0, 2, 2, 124, -131]
