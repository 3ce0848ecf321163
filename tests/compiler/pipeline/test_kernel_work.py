"""Which kernel each call counts as, and how much of it."""

from __future__ import annotations

import pytest
import torch
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.shapes import annotate
from fxedge.compiler.pipeline.kernel_work import Work, recorded_shapes, work_of
from torch import Tensor, nn
from torch.nn import functional as F


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Conv2d(4, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 5, padding=2, groups=8)
        self.pointwise = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.dense(x))
        x = F.hardswish(self.depthwise(x)) + x
        x = self.pointwise(x).mean((2, 3))
        return torch.softmax(self.head(x.reshape(-1, 6)), -1)


def _works(model: nn.Module, x: Tensor) -> list[Work]:
    gm = capture(model.eval(), (x,))
    annotate(gm)
    shapes = recorded_shapes(gm, (x,))
    found = [work_of(gm, node, shapes) for node in gm.graph.nodes if node.op == "call_function"]
    return [work for work in found if work is not None]


def test_layers_count_multiplications_and_the_rest_elements() -> None:
    assert _works(Mixed(), torch.zeros(1, 4, 10, 10)) == [
        Work("conv3x3", 100 * 8 * 4 * 9),
        Work("depthwise5x5", 100 * 8 * 25),
        Work("hardswish", 800),
        Work("add", 800),
        Work("conv1x1", 100 * 6 * 8),
        Work("add", 600),
        Work("linear", 18),
        Work("softmax", 3),
    ]


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.Conv2d(4, 4, 3), "conv3x3"),
        (nn.Conv2d(4, 4, 3, groups=2), "grouped3x3"),
        (nn.Conv2d(4, 8, 3, groups=4), "depthwise3x3"),
        (nn.Conv2d(4, 4, 3, dilation=2), "dilated3x3"),
        (nn.Conv2d(4, 4, 1, dilation=2), "conv1x1"),
        (nn.Conv3d(4, 4, 3), "conv3x3x3"),
        (nn.Conv1d(4, 4, 3), "conv3x3"),
    ],
)
def test_convolutions_are_told_apart(layer: nn.Module, kind: str) -> None:
    axes = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}[type(layer)]
    assert [work.kind for work in _works(layer, torch.zeros(1, 4, *[6] * axes))] == [kind]


def test_a_transposed_convolution_counts_by_its_input() -> None:
    assert _works(nn.ConvTranspose2d(4, 8, 2, stride=2), torch.zeros(1, 4, 5, 5)) == [
        Work("conv3x3", 25 * 4 * 8 * 4)
    ]


@pytest.mark.parametrize(("rows", "kind"), [(1, "linear"), (7, "linear_rows")])
def test_a_linear_of_one_row_or_of_several(rows: int, kind: str) -> None:
    x = torch.zeros(1, rows, 6) if rows > 1 else torch.zeros(1, 6)
    assert _works(nn.Linear(6, 3), x) == [Work(kind, rows * 18)]


def test_products_of_activations() -> None:
    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x.transpose(1, 2)

    assert _works(Product(), torch.zeros(1, 5, 6)) == [Work("concat", 30), Work("linear_rows", 25 * 6)]


def test_a_product_with_a_constant_on_the_left() -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.zeros(7, 5))

        def forward(self, x: Tensor) -> Tensor:
            return self.matrix @ x

    assert _works(Mixing(), torch.zeros(1, 5, 6))[-1].kind == "linear_rows"


def test_an_op_without_a_kernel_of_its_own() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.exp(x)

    assert _works(Odd(), torch.zeros(1, 5)) == [Work("mul", 5)]
