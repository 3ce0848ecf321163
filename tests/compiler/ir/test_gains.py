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
        (lambda m, x: F.silu(x * m.g), True),
        (lambda m, x: F.hardswish(x) * m.g, True),
        (lambda m, x: F.relu(x * m.g), False),  # factors pass a relu
        (lambda m, x: F.hardtanh(x * m.g), False),  # bounds take them up
        (lambda m, x: (y := F.gelu(x)) * m.g + y, False),  # something else reads the activation
        (lambda m, x: F.silu(y := x * m.g) + y, False),
        (lambda m, x: F.silu(x * x), False),
        (lambda m, x: F.silu(x * 2.0), False),
        (lambda m, x: x * m.g, False),
    ],
)
def test_a_gain_is_a_constant_for_each_channel_at_an_activation(function: object, expected: bool) -> None:
    gm = capture(Calls(function, g=ROW), inputs((2, 3, 4, 4)))  # type: ignore[arg-type]
    products = gm.graph.find_nodes(op="call_function", target=aten.mul.Tensor)
    assert [is_gain(node) for node in products] == [expected]


@pytest.mark.parametrize("shape", [(1,), (1, 1, 1), (3, 4, 1), (3, 4, 4)])
def test_a_constant_of_another_shape_is_none(shape: tuple[int, ...]) -> None:
    gm = capture(Calls(lambda m, x: F.silu(x * m.g), g=torch.ones(shape)), inputs((2, 3, 4, 4)))
    (product,) = gm.graph.find_nodes(op="call_function", target=aten.mul.Tensor)
    assert not is_gain(product)


@pytest.mark.parametrize(
    ("function", "expected"),
    [(F.silu, True), (F.hardsigmoid, True), (F.relu, False), (F.relu6, False), (F.leaky_relu, False)],
)
def test_factors_pass_what_is_homogeneous_or_a_clamp(function: object, expected: bool) -> None:
    def call(m: Calls, x: Tensor) -> object:
        return function(x)  # type: ignore[operator]

    gm = capture(Calls(call), inputs((2, 3)))
    (node,) = (node for node in gm.graph.nodes if node.op == "call_function")
    assert breaks_scale(node) is expected
