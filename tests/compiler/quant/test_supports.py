"""Each support check on nodes that it takes and on nodes that it does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.shapes import annotate
from fxedge.compiler.ir.sizes import ShapeUnknown
from fxedge.compiler.quant import supports
from fxedge.compiler.quant.target import Support
from torch import Tensor, fx, nn
from torch.nn import functional as F


class _Function(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _node(function: Callable[..., Tensor], *shape: int) -> fx.Node:
    """The last call of the captured function."""
    gm = capture(_Function(function).eval(), (torch.rand(shape),), dynamic_axes=())
    annotate(gm)
    return [node for node in gm.graph.nodes if node.op == "call_function"][-1]


@pytest.mark.parametrize(
    ("check", "function", "shape", "reason"),
    [
        (supports.rank(4), F.hardswish, (2, 3, 4, 4), None),
        (supports.rank(2, 4), F.hardswish, (2, 3, 4), "its input has 3 axes, the kernel takes 2 or 4"),
        (supports.two_tensors, lambda x: x + x, (2, 3), None),
        (supports.two_tensors, lambda x: x + 1, (2, 3), "the other operand is a number"),
        (supports.plain_sum, lambda x: x + x, (2, 3), None),
        (supports.plain_sum, lambda x: torch.add(x, x, alpha=2), (2, 3), "alpha is not 1"),
        (supports.one_output, lambda x: F.adaptive_avg_pool2d(x, 1), (2, 3, 4, 4), None),
        (supports.one_output, lambda x: F.adaptive_avg_pool2d(x, (1, 2)), (2, 3, 4, 4), "output size is not 1"),
        (supports.image_mean, lambda x: x.mean((2, -1)), (2, 3, 4, 4), None),
        (supports.image_mean, lambda x: x.mean(1), (2, 3, 4, 4), "the mean is not over height and width"),
        (
            supports.image_mean,
            lambda x: x.mean((2, 3), dtype=torch.float64),
            (2, 3, 4, 4),
            "the mean changes the dtype",
        ),
        (supports.growing_pad, lambda x: F.pad(x, (1, 0)), (2, 3), None),
        (supports.growing_pad, lambda x: F.pad(x, (-1, 0)), (2, 3), "a pad is negative or symbolic"),
        (supports.fixed_arguments, lambda x: x[:, 1:2], (2, 3), None),
    ],
)
def test_reasons(
    check: Support, function: Callable[..., Tensor], shape: tuple[int, ...], reason: str | None
) -> None:
    assert check(_node(function, *shape)) == reason


def test_layers_want_a_batch() -> None:
    conv, linear = torch.rand(4, 3, 1, 1), torch.rand(4, 3)
    assert supports.batched(_node(lambda x: F.conv2d(x, conv), 2, 3, 4, 4)) is None
    assert supports.batched(_node(lambda x: F.conv2d(x, conv), 3, 4, 4)) == "its input has no batch axis"
    assert supports.matrix(_node(lambda x: F.linear(x, linear), 2, 3)) is None
    assert supports.matrix(_node(lambda x: F.linear(x, linear), 3)) == "its input is a vector"


def test_the_first_reason_counts() -> None:
    node = _node(torch.relu, 2, 3)
    yes, no, other = (lambda _, text=text: text for text in (None, "no", "other"))
    assert supports.all_of(yes, no, other)(node) == "no"
    assert supports.all_of(yes, yes)(node) is None


def test_an_unknown_shape_is_a_reason() -> None:
    def ask(node: fx.Node) -> str | None:
        raise ShapeUnknown(f"the shape of {node.name} is not known")

    assert supports.with_known_shapes(ask)(_node(torch.relu, 2, 3)) == "the shape of relu is not known"
