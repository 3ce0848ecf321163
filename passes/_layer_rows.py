"""A layer as a least-squares problem: rows of integers that its weights multiply, and the outputs wanted of them.

conv1d/2d/3d (strides, padding, dilation, groups), conv_transpose (as the convolution of the input with zeros put
between its elements, kernel turned around) and linear. One row is what one output position reads: for group g,
`rows[g] @ weight[g]` is the layer's integer sum there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..compiler.ir.ops import CONV_TRANSPOSE, OPS
from ..compiler.quant.program import IntegerStep


@dataclass(frozen=True, slots=True)
class LayerRows:
    """The rows of `step` for its integer inputs and the float layer's outputs before the activation, one of each
    for each batch. `positions` is how many output positions of a sample are taken, at random (all, if fewer)."""

    step: IntegerStep
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    positions: int
    seed: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each batch, in units of one integer step: the integers less the zero point that the weights multiply
        [groups, rows, fan-in], and what they should make of them, bias taken off [groups, rows, outputs]. The
        same rows each time."""
        generator = torch.Generator().manual_seed(self.seed)
        for x, y in zip(self.inputs, self.outputs, strict=True):
            yield self._rows(x, y, generator)

    def _rows(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        groups, spatial = groups_of(self.step), OPS[self.step.anchor.target].spatial  # type: ignore[index]
        centered = (x.to(torch.int32) - self.step.in_qparams[0].zero_point[0]).float()
        if spatial == 0:
            patches, wanted = centered.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
            chosen = _choose(len(patches), self.positions * (len(x) if x.ndim > 2 else len(patches)), generator)
            patches, wanted = patches[chosen], wanted[chosen]
        else:
            if x.ndim == spatial + 1:
                centered, y = centered.unsqueeze(0), y.unsqueeze(0)
            chosen = _choose(y[0, 0].numel(), self.positions, generator)
            patches = _patches(self.step, centered, chosen)
            wanted = y.flatten(2)[:, :, chosen].movedim(1, 2).flatten(0, 1)
        units = (wanted - bias_value(self.step)) / unit(self.step)
        return (
            patches.reshape(len(patches), groups, -1).movedim(1, 0).contiguous(),
            units.reshape(len(units), groups, -1).movedim(1, 0).contiguous(),
        )


def _choose(count: int, wanted: int, generator: torch.Generator) -> Tensor:
    """`wanted` of `count` indices, in order; all where there are no more."""
    if wanted >= count:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[:wanted].sort().values


def _patches(step: IntegerStep, x: Tensor, chosen: Tensor) -> Tensor:
    """What the output positions `chosen` read: [batch · chosen, channels, kernel positions]."""
    assert step.weight is not None
    kernel, attrs = step.weight.shape[2:], step.attrs
    dilation, stride, padding = list(attrs["dilation"]), list(attrs["stride"]), list(attrs["padding"])
    ends = padding
    if step.anchor.target in CONV_TRANSPOSE:
        x = _spread(x, stride)
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        padding = [r - p for r, p in zip(reach, padding, strict=True)]
        ends = [p + e for p, e in zip(padding, attrs["output_padding"], strict=True)]
        stride = [1] * len(stride)
    x = F.pad(x, [side for pair in reversed(list(zip(padding, ends, strict=True))) for side in pair])
    parts = []
    for offset in itertools.product(*(range(size) for size in kernel)):
        part = x
        for axis, place in enumerate(offset):
            reach_here = dilation[axis] * (kernel[axis] - 1)
            count = (x.shape[axis + 2] - reach_here - 1) // stride[axis] + 1
            start = place * dilation[axis]
            part = part.narrow(axis + 2, start, (count - 1) * stride[axis] + 1)
            part = part[(slice(None),) * (axis + 2) + (slice(None, None, stride[axis]),)]
        parts.append(part.flatten(2)[:, :, chosen])
    return torch.stack(parts, -1).movedim(1, 2).flatten(0, 1)


def _spread(x: Tensor, stride: Sequence[int]) -> Tensor:
    """`stride - 1` zeros between neighbours on each spatial axis."""
    sizes = [(size - 1) * s + 1 for size, s in zip(x.shape[2:], stride, strict=True)]
    wide = x.new_zeros(*x.shape[:2], *sizes)
    wide[(slice(None), slice(None), *(slice(None, None, s) for s in stride))] = x
    return wide


def groups_of(step: IntegerStep) -> int:
    return int(step.attrs.get("groups", 1))


def by_group(step: IntegerStep, weight: Tensor) -> Tensor:
    """A weight of the layer's own shape as [groups, fan-in, outputs of a group], to be multiplied by rows."""
    groups = groups_of(step)
    if step.anchor.target in CONV_TRANSPOSE:  # [in, out / groups, *kernel]
        turned = weight.flip(list(range(2, weight.ndim)))
        return turned.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(2).transpose(1, 2)
    return weight.reshape(groups, weight.shape[0] // groups, -1).transpose(1, 2)


def from_groups(step: IntegerStep, grouped: Tensor) -> Tensor:
    """The other way round."""
    assert step.weight is not None
    shape = step.weight.shape
    if step.anchor.target in CONV_TRANSPOSE:
        groups = groups_of(step)
        own = grouped.transpose(1, 2).reshape(groups, shape[1], shape[0] // groups, *shape[2:])
        return own.transpose(1, 2).reshape(shape).flip(list(range(2, len(shape))))
    return grouped.transpose(1, 2).reshape(shape)


def unit(step: IntegerStep) -> Tensor:
    """What one unit of the integer sums is worth: float32 [out] or [1]."""
    assert step.weight_qparams is not None
    return step.weight_qparams.scale_tensor() * step.in_qparams[0].scale_tensor()


def bias_value(step: IntegerStep) -> Tensor:
    """The bias as a real number: float32 [out] or [1]."""
    if step.bias is None:
        return torch.zeros(1)
    return step.bias if step.bias.is_floating_point() else step.bias * unit(step)


def output_bounds(step: IntegerStep) -> tuple[Tensor, Tensor]:
    """Least and largest output that the result's integers can say, in rows' units: [groups, 1, outputs]."""
    qp, groups = step.out_qparams, groups_of(step)
    bounds = []
    for all_channels, channels in zip(step.clamp, (step.channel_low, step.channel_high), strict=True):
        integers = torch.tensor([all_channels]) if channels is None else channels.flatten()
        value = (integers - qp.zero_point[0]) * qp.scale[0]
        units = (value - bias_value(step)) / unit(step)
        bounds.append(units.reshape(groups, 1, -1) if units.numel() > 1 else units.reshape(1, 1, 1))
    return bounds[0], bounds[1]
