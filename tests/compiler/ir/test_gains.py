"""Gains: which products stand at an activation, and which only look like it."""

from __future__ import annotations

import pytest
import torch
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.gains import breaks_scale, is_gain
from fxedge.compiler.ir.ops import aten
from support import Calls, inputs
from torch import Tensor
from torch.nn import functional as F

ROW = torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda m, x: F.silu(x * m.x_channel_gain), True),
        (lambda m, x: F.hardswish(x) * m.x_channel_gain, True),
        (lambda m, x: F.relu(x * m.x_channel_gain), False),  # factors pass a relu
        (lambda m, x: F.hardtanh(x * m.x_channel_gain), False),  # bounds take them up
        (lambda m, x: (y := F.gelu(x)) * m.x_channel_gain + y, False),  # something else reads the activation
        (lambda m, x: F.silu(y := x * m.x_channel_gain) + y, False),
        (lambda m, x: F.silu(x * x), False),
        (lambda m, x: F.silu(x * 2.0), False),
        (lambda m, x: x * m.x_channel_gain, False),
    ],
)
def test_a_gain_is_a_constant_for_each_channel_at_an_activation(function: object, expected: bool) -> None:
    gm = capture(Calls(function, x_channel_gain=ROW), inputs((2, 3, 4, 4)))  # type: ignore[arg-type]
    products = gm.graph.find_nodes(op="call_function", target=aten.mul.Tensor)
    assert [is_gain(node) for node in products] == [expected]


@pytest.mark.parametrize(
    ("name", "expected"), [("x_channel_gain_3", True), ("gamma", False), ("channel_gains", False)]
)
def test_a_model_s_own_product_is_none(name: str, expected: bool) -> None:
    gm = capture(Calls(lambda m, x: F.silu(x * getattr(m, name)), **{name: ROW}), inputs((2, 3, 4, 4)))
    (product,) = gm.graph.find_nodes(op="call_function", target=aten.mul.Tensor)
    assert is_gain(product) is expected


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (F.silu, True),
        (F.gelu, True),
        (F.hardsigmoid, False),
        (F.relu, False),
        (F.relu6, False),
        (F.leaky_relu, False),
    ],
)
def test_what_is_homogeneous_bounded_or_a_clamp_needs_no_gain(function: object, expected: bool) -> None:
    def call(m: Calls, x: Tensor) -> object:
        return function(x)  # type: ignore[operator]

    gm = capture(Calls(call), inputs((2, 3)))
    (node,) = (node for node in gm.graph.nodes if node.op == "call_function")
    assert breaks_scale(node) is expected
