"""How a grouped convolution is run so that it is exact: torch's own grouped kernels are not always.

fbgemm's depthwise kernels (one input channel per group; 3x3, 5x5, 7x7 and 3x3x3 with "same" padding) add taps
in row-major pairs in saturating int16 even on VNNI machines: 255 * 127 twice is 64,770 and becomes 32,767.
The x86 engine takes them for more than 100 groups, and without AVX512-VNNI for all. fbgemm's grouped kernel
for 2 or 4 channels per group (3x3, 3x3x3) writes past its buffers unless the channels are a multiple of 16.
Both are avoided by saying the same convolution otherwise, weights unchanged:

* `merged`: neighbouring groups become one, with a block-diagonal weight. 4 or 8 channels per group run on
  fbgemm's VNNI kernel (3x3, 3x3x3), which is as fast as the saturating one (0.7 to 1.4 times its time on
  MobileNetV2's shapes).
* `frames`: 5x5 and 7x7 have no such kernel. Two copies of the input become the frames of a 3d depthwise
  convolution whose weight has the even taps in one frame and the odd ones in the next, so that no pair has
  two non-zero weights: 1.4 to 4 times the time of the saturating kernel, about that of float. It corrupts
  memory where the output is smaller than the padding, so there, and wherever sizes are unknown, groups are
  merged as widely as pays off.

Both fast roads ask for "same" padding. With less of it, the convolution is computed with "same" padding and the
results that start inside the padding are dropped; at stride 2 a zero in front of x may be needed to meet the right
ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

# oneDNN is preferred to fbgemm by the x86 engine up to this many groups.
X86_ONEDNN_GROUPS = 100
_WIDEST = 32


@dataclass(frozen=True, slots=True)
class Road:
    """`merge` neighbouring groups become one (1: none); `frames` runs the convolution over two copies of x.

    `realign` gives it "same" padding, which the fast kernels ask for: x gets `lead` zeros in front on every axis,
    and the first `skip` results are dropped.
    """

    merge: int = 1
    frames: bool = False
    realign: bool = False
    lead: int = 0
    skip: int = 0


@dataclass(frozen=True, slots=True)
class ConvShape:
    """What decides the kernel. `weight` is [out, in / groups, *kernel], `output` the output's spatial sizes
    (None where unknown)."""

    weight: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    output: tuple[int, ...] | None = None

    @classmethod
    def of(cls, weight: Tensor, attrs: Mapping[str, Any], output: Sequence[int] | None) -> ConvShape:
        """From a conv's weight and its arguments by schema name; single numbers stand for every axis."""
        spatial = weight.ndim - 2

        def each(key: str) -> tuple[int, ...]:
            value = attrs[key]
            values = (value,) if isinstance(value, int) else tuple(value)
            return values * spatial if len(values) == 1 else values

        window = (each("stride"), each("padding"), each("dilation"))
        return cls(tuple(weight.shape), *window, attrs["groups"], None if output is None else tuple(output))

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.weight[2:]

    @property
    def per_group(self) -> int:
        return self.weight[1]

    @property
    def channels(self) -> int:
        return self.per_group * self.groups

    @property
    def square(self) -> bool:
        """Input and output channels agree, and so do they in every group."""
        return self.weight[0] == self.channels

    @property
    def half(self) -> int:
        """The padding that keeps the size at stride 1."""
        return self.kernel[0] // 2

    def overruns(self, merge: int) -> bool:
        """Whether fbgemm's grouped kernel writes past its buffers where `merge` groups become one."""
        narrow = self.per_group * merge in (2, 4) and self.square and set(self.kernel) == {3}
        return self.groups > merge and narrow and self.channels % 16 != 0

    def regular(self, *kernels: int) -> bool:
        """A cubic kernel of one of these sizes, equal padding up to "same", stride 1 or 2 on every axis, no
        dilation."""
        return (
            len(self.kernel) > 1
            and self.kernel[0] in kernels
            and set(self.kernel) == {self.kernel[0]}
            and len(set(self.padding)) == 1
            and self.padding[0] <= self.half
            and set(self.dilation) == {1}
            and set(self.stride) in ({1}, {2})
        )

    def fast_in_fbgemm(self, merge: int) -> bool:
        """Whether fbgemm has a kernel of its own for it where `merge` groups become one, depthwise or grouped."""
        width = self.per_group * merge
        kernels = (3, 5, 7) if width == 1 else (3,) if width in (4, 8) else ()
        fits = self.square and self.channels % 8 == 0 and self.regular(*kernels)
        return fits and self.aligned(Road()) is not None

    def aligned(self, road: Road) -> Road | None:
        """`road` for "same" padding; None where it takes realigning and the output's size is not known."""
        missing = self.half - self.padding[0]
        if missing == 0:
            return road
        if self.output is None or len(self.kernel) != 2:
            return None
        lead = -missing % self.stride[0]
        return replace(road, realign=True, lead=lead, skip=(missing + lead) // self.stride[0])

    def output_covers_padding(self) -> bool:
        return self.output is not None and all(size >= self.half for size in self.output)


def fbgemm_road(shape: ConvShape) -> Road:
    """The exact road for a grouped convolution under fbgemm."""
    if shape.groups == 1:
        return Road()
    if shape.per_group > 1:
        return Road(min(_right(shape), key=lambda merge: (merge > 1 and merge * shape.per_group % 8 != 0, merge)))
    if shape.square and shape.channels % 8 == 0:
        if shape.regular(3) and (road := shape.aligned(Road(4 if shape.channels % 16 == 0 else 8))):
            return road
        plane = len(shape.kernel) == 2 and shape.regular(5, 7) and shape.output_covers_padding()
        if plane and (road := shape.aligned(Road(frames=True))):
            return road
    return Road(max(merge for merge in _right(shape) if merge <= _WIDEST))


def _right(shape: ConvShape) -> list[int]:
    """How many groups may become one without fbgemm getting it wrong."""
    return [n for n in range(1, shape.groups + 1) if shape.groups % n == 0 and not shape.overruns(n)]


def x86_road(shape: ConvShape) -> Road:
    """The exact road under the x86 engine: few enough groups for oneDNN, none that fbgemm, which the engine takes
    without AVX512-VNNI, gets wrong, and of these the one that is fast on both."""
    fits = [merge for merge in _right(shape) if shape.groups // merge <= X86_ONEDNN_GROUPS]
    merge = min(fits, key=lambda merge: (_slowness(shape, merge), merge))
    return (shape.fast_in_fbgemm(merge) and shape.aligned(Road(merge))) or Road(merge)


# Channels of a merged group, the best first, for both libraries' kernels for any groups. The wider, the faster
# fbgemm (16: 13 times as fast as 1, 24 or 32 hardly more), and the slower oneDNN (16: up to 1.5 times as long).
_WIDTHS = (16, 24, 32, 8)


def _slowness(shape: ConvShape, merge: int) -> int:
    """In what order x86 takes roads. oneDNN takes 30 to 240 times as long for a group of several channels, unless
    they are a multiple of 4."""
    width = merge * shape.per_group
    if (shape.per_group > 1 and merge == 1) or (width != 4 and shape.fast_in_fbgemm(merge)):
        return 0
    if width in _WIDTHS:
        return 1 + _WIDTHS.index(width)
    if width % 4 == 0:
        return 5 if width % 8 == 0 else 6
    if merge == 1:
        return 7
    return 8 if merge == shape.groups else 9


def onednn_road(shape: ConvShape) -> Road:
    """oneDNN's grouped kernels are exact as they are."""
    return Road()


def merge_groups(weight: Tensor, groups: int, merge: int) -> Tensor:
    """[out, in / groups, *kernel] -> the block-diagonal [out, merge * in / groups, *kernel] of groups / merge."""
    out, per_group = weight.shape[:2]
    merged = weight.new_zeros((out, per_group * merge, *weight.shape[2:]))
    slot = torch.arange(out) // (out // groups) % merge
    for index in range(merge):
        mine = slot == index
        merged[mine, index * per_group : (index + 1) * per_group] = weight[mine]
    return merged


def split_into_frames(weight: Tensor) -> Tensor:
    """[channels, 1, k, k] -> [channels, 1, 3, k, k]: even taps in frame 1, odd ones in frame 2."""
    size = weight.shape[-1]
    even = (torch.arange(size * size) % 2 == 0).reshape(size, size)
    return torch.stack([torch.zeros_like(weight), weight * even, weight * ~even], 2)
