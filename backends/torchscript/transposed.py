"""How a transposed convolution is run so that it is right: two of torch's kernels are not.

oneDNN (engine onednn, and x86 without output padding) gets the weight with its channel axes swapped, which is
right only where a group has as many input as output channels. fbgemm's direct kernel (2d, one group, channels
multiples of 8, two rows of at most 6 taps, stride 1 or 2, no padding) reads what was never written. Zero taps
move a convolution to another kernel without changing its result:

* `SURROUNDED`: a zero row before and after, one more padding. No longer two rows.
* `SHIFTED`: a zero row before, one more padding, one more output padding. The x86 engine gives it to fbgemm.
  Takes a stride above the dilation, because output padding must be smaller than one of them.

A row of taps is as wide as the dilation: so are the paddings that make up for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import Tensor
from torch.nn import functional as F


class TransposeRoad(Enum):
    """Zero taps on the first spatial axis: (before, after, padding, output padding), paddings in dilations."""

    PLAIN = (0, 0, 0, 0)
    SURROUNDED = (1, 1, 1, 0)
    SHIFTED = (1, 0, 1, 1)


@dataclass(frozen=True, slots=True)
class TransposedShape:
    """What decides the kernel. `weight` is [in, out / groups, *kernel]."""

    weight: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, weight: tuple[int, ...], attrs: Mapping[str, Any]) -> TransposedShape:
        """From the weight's shape and the op's arguments by schema name; single numbers stand for every axis."""

        def each(key: str) -> tuple[int, ...]:
            values = (attrs[key],) if isinstance(attrs[key], int) else tuple(attrs[key])
            return values * (len(weight) - 2) if len(values) == 1 else values

        window = (each("stride"), each("padding"), each("output_padding"), each("dilation"))
        return cls(tuple(weight), *window, attrs["groups"])

    @property
    def equal_channels(self) -> bool:
        return self.weight[0] // self.groups == self.weight[1]

    def takes_direct_kernel(self) -> bool:
        """Whether fbgemm would take its direct kernel."""
        _, _, *kernel = self.weight
        return (
            len(kernel) == 2
            and self.groups == 1
            and self.weight[0] % 8 == self.weight[1] % 8 == 0
            and kernel[0] == 2
            and kernel[1] <= 6
            and set(self.stride) <= {1, 2}
            and set(self.padding) == {0}
            and set(self.dilation) == {1}
        )


def fbgemm_transpose(shape: TransposedShape) -> TransposeRoad | str:
    """The right road under fbgemm."""
    return TransposeRoad.SURROUNDED if shape.takes_direct_kernel() else TransposeRoad.PLAIN


def onednn_transpose(shape: TransposedShape) -> TransposeRoad | str:
    """The right road under onednn, or the reason why there is none."""
    if any(shape.output_padding):
        return "oneDNN takes no output padding"
    if not shape.equal_channels:
        return "torch's oneDNN kernel is wrong where a group's input and output channels differ"
    return TransposeRoad.PLAIN


def x86_transpose(shape: TransposedShape) -> TransposeRoad | str:
    """The right road under the x86 engine, with AVX512-VNNI and without, or the reason why there is none."""
    if any(shape.output_padding):
        return fbgemm_transpose(shape)
    if not shape.equal_channels and shape.stride[0] > shape.dilation[0]:
        return TransposeRoad.SHIFTED
    found = onednn_transpose(shape)
    return fbgemm_transpose(shape) if found is TransposeRoad.PLAIN else found


def x86_takes_fbgemm(shape: TransposedShape) -> bool:
    """Whether the x86 engine runs this convolution, on its road, on fbgemm even with AVX512-VNNI."""
    return any(shape.output_padding) or not shape.equal_channels


def add_taps(weight: Tensor, road: TransposeRoad) -> Tensor:
    """`weight` [in, out / groups, *kernel] with the road's zero taps on the first spatial axis."""
    before, after, *_ = road.value
    later_axes = weight.ndim - 3
    return F.pad(weight, [0, 0] * later_axes + [before, after])
