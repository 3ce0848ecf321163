"""The kernels that a machine is calibrated with: each as a net of any length, its input and output of one shape.

An op without weights is computed on integers only beside others that are, so that its chain stands between two
layers with weights; the difference of two lengths does not know them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ...pipeline.kernel_costs import Unit


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel at one size. `net(n)` has it n times in a row, `shape` is that of its input and its output;
    `work` is that of one of them: multiplications (each with its addition), or elements of the output. `anchored`:
    its net has layers besides."""

    kind: str
    unit: Unit
    work: int
    shape: tuple[int, ...]
    net: Callable[[int], nn.Module]
    anchored: bool = False

    def example(self) -> Tensor:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(0))

    @property
    def elements(self) -> int:
        return torch.Size(self.shape).numel()


class _Pairwise(nn.Module):
    """Each result with the one before: both operands are activations that have just been made."""

    def __init__(self, op: Callable[[Tensor, Tensor], Tensor], count: int) -> None:
        super().__init__()
        self.op, self.count = op, count

    def forward(self, x: Tensor) -> Tensor:
        before, now = x, x
        for _ in range(self.count):
            before, now = now, self.op(before, now)
        return now


class _Rejoined(nn.Module):
    """The halves of the channels in the other order, joined."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.count):
            first, second = x.chunk(2, 1)
            x = torch.cat([second, first], 1)
        return x


def _repeated(make: Callable[[], nn.Module]) -> Callable[[int], nn.Module]:
    def net(count: int) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(*(make() for _ in range(count)))

    return net


def _conv(
    kind: str,
    size: int,
    *places: tuple[int, int],
    each: int | None = None,
    dilation: int = 1,
    axes: Literal[2, 3] = 2,
) -> list[Kernel]:
    """`places`: (channels, length of each of the `axes`); `each`: channels of a group, None for a single group."""
    kernels = []
    for channels, side in places:
        group = channels if each is None else each

        def make(channels: int = channels, group: int = group) -> nn.Module:
            conv = nn.Conv2d if axes == 2 else nn.Conv3d
            padding = size // 2 * dilation
            return conv(channels, channels, size, 1, padding, dilation, channels // group)

        work = channels * group * size**axes * side**axes
        kernels.append(Kernel(kind, "macs", work, (1, channels, *(side,) * axes), _repeated(make)))
    return kernels


def _linear(kind: str, *places: tuple[int, int]) -> list[Kernel]:
    """`places`: (rows, features)."""
    kernels = []
    for rows, features in places:

        def make(features: int = features) -> nn.Module:
            return nn.Linear(features, features)

        shape = (1, features) if rows == 1 else (1, rows, features)
        kernels.append(Kernel(kind, "macs", rows * features * features, shape, _repeated(make)))
    return kernels


def _plain(kind: str, chain: Callable[[int], nn.Module], *shapes: tuple[int, ...]) -> list[Kernel]:
    return [
        Kernel(kind, "elements", torch.Size(shape).numel(), shape, _between(chain, shape), anchored=True)
        for shape in shapes
    ]


def _between(chain: Callable[[int], nn.Module], shape: tuple[int, ...]) -> Callable[[int], nn.Module]:
    """The chain between two layers that keep its shape."""

    def layer() -> nn.Module:
        return nn.Conv2d(shape[1], shape[1], 1) if len(shape) == 4 else nn.Linear(shape[-1], shape[-1])

    def net(count: int) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(layer(), chain(count), layer())

    return net


def _layer_norms(*shapes: tuple[int, ...]) -> list[Kernel]:
    return [
        kernel
        for shape in shapes
        for kernel in _plain("layer_norm", _repeated(functools.partial(nn.LayerNorm, shape[-1])), shape)
    ]


# The smallest sizes show what a call of a kernel costs before it computes anything.
_MAPS = ((1, 8, 8, 8), (1, 32, 14, 14), (1, 32, 56, 56))
_ROWS = ((1, 8, 16), (1, 64, 32), (1, 128, 128))

KERNELS: Sequence[Kernel] = (
    *_conv("conv1x1", 1, (8, 8), (16, 28), (64, 28), (256, 14)),
    *_conv("conv3x3", 3, (8, 8), (16, 14), (32, 28), (64, 28)),
    *_conv("grouped3x3", 3, (8, 8), (64, 28), each=4),
    *_conv("dilated3x3", 3, (8, 8), (64, 28), dilation=2),
    *_conv("conv3x3x3", 3, (8, 6), (16, 14), axes=3),
    *_conv("depthwise3x3", 3, (8, 8), (32, 14), (96, 28), (192, 56), each=1),
    *_conv("depthwise5x5", 5, (16, 8), (96, 14), (240, 28), each=1),
    *_linear("linear", (1, 16), (1, 64), (1, 256), (1, 1024)),
    *_linear("linear_rows", (16, 16), (64, 64), (128, 384)),
    *_plain("add", lambda count: _Pairwise(torch.add, count), *_MAPS),
    *_plain("mul", lambda count: _Pairwise(torch.mul, count), *_MAPS),
    *_plain("concat", _Rejoined, *_MAPS),
    *_plain("max_pool3x3", _repeated(lambda: nn.MaxPool2d(3, 1, 1)), *_MAPS),
    *_plain("avg_pool3x3", _repeated(lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False)), *_MAPS),
    *_plain("sigmoid", _repeated(nn.Sigmoid), *_MAPS),
    *_plain("hardswish", _repeated(nn.Hardswish), *_MAPS),
    *_plain("gelu", _repeated(nn.GELU), *_ROWS),
    *_plain("softmax", _repeated(lambda: nn.Softmax(-1)), *_ROWS),
    *_layer_norms(*_ROWS),
)
