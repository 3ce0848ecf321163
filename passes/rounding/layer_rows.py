"""A layer as a least-squares problem: rows of integers that its weights multiply, and the outputs wanted of them.

conv1d/2d/3d (strides, padding, dilation, groups), conv_transpose (as the convolution of the input with zeros put
between its elements, kernel turned around) and linear. One row is what one output position reads: for group g,
`rows[g] @ weight[g]` is the layer's integer sum there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...compiler.ir.clamps import is_clamp
from ...compiler.ir.ops import CONV_TRANSPOSE, OPS
from ...compiler.quant.program import IntegerStep

_PIECE = 2**21  # integers: larger ones are memory that the system gives and takes back each time


@dataclass(frozen=True, slots=True)
class LayerRows:
    """The rows of `step` for its integer inputs, which are batches. `positions` is how many output positions of a
    sample are taken, at random (all, if fewer), the same ones each time."""

    step: IntegerStep
    inputs: Sequence[Tensor]
    positions: int
    seed: int

    def integers(self) -> Iterator[Tensor]:
        """The integers less the zero point that the weights multiply, a few samples after the other: float32
        [groups, rows, fan-in]. The rows lie next to each other in memory: products of many small groups, as of a
        depthwise convolution, take half the time."""
        groups = groups_of(self.step)
        for x, chosen in zip(self.inputs, self._chosen(), strict=True):
            for piece in self._pieces(x, len(chosen)):
                patches = _patches(self.step, piece, chosen)
                fan_in = patches.shape[:2].numel() // groups
                yield patches.reshape(groups, fan_in, -1).transpose(1, 2)

    def _pieces(self, x: Tensor, rows: int) -> Sequence[Tensor]:
        """An input in parts of a few samples; whole where it is a single one without an axis for them."""
        weight = self.step.weight
        assert weight is not None
        if x.ndim < weight.ndim:
            return (x,)
        sample = rows * weight.shape[2:].numel() * x.shape[1 if weight.ndim > 2 else -1]
        return x.split(max(1, _PIECE // max(1, sample)))

    def outputs(self, values: Sequence[Tensor]) -> Iterator[Tensor]:
        """The same rows of the layer's outputs `values`, one tensor for each batch: [samples, rows, outputs]."""
        spatial = _spatial(self.step)
        for value, chosen in zip(values, self._chosen(), strict=True):
            if spatial == 0:
                yield _with_samples(value)[:, chosen]
            else:
                batched = value if value.ndim == spatial + 2 else value.unsqueeze(0)
                yield batched.flatten(2)[:, :, chosen].transpose(1, 2)

    def wanted(self, values: Sequence[Tensor]) -> Iterator[Tensor]:
        """What the weights should make of `integers`, for the outputs wanted of the layer: bias taken off, in
        units of one integer step, [groups, rows, outputs]."""
        for rows in self.outputs(values):
            units = ((rows - bias_value(self.step)) / unit(self.step)).flatten(0, 1)
            yield units.reshape(len(units), groups_of(self.step), -1).movedim(1, 0).contiguous()

    def _chosen(self) -> Iterator[Tensor]:
        """For each batch, indices of output positions in order."""
        generator = torch.Generator().manual_seed(self.seed)
        for x in self.inputs:
            yield _choose(_positions_of(self.step, x), self.positions, generator)


def _choose(count: int, wanted: int, generator: torch.Generator) -> Tensor:
    """`wanted` of `count` indices, in order; all where there are no more."""
    if wanted >= count:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[:wanted].sort().values


def _spatial(step: IntegerStep) -> int:
    return OPS[step.anchor.target].spatial  # type: ignore[index]


def _with_samples(x: Tensor) -> Tensor:
    """What a linear reads or gives as [samples, positions, features]."""
    return x.reshape(len(x) if x.ndim > 1 else 1, -1, x.shape[-1])


@dataclass(frozen=True, slots=True)
class _Axis:
    """Where a convolution reads along one spatial axis: output position i reads `i * stride + k * dilation` of an
    input of which neighbours stand `spread` apart, with `before` and `after` positions of padding around it."""

    size: int
    kernel: int
    stride: int
    dilation: int
    spread: int
    before: int
    after: int

    @property
    def padded(self) -> int:
        return (self.size - 1) * self.spread + 1 + self.before + self.after

    @property
    def positions(self) -> int:
        return (self.padded - self.dilation * (self.kernel - 1) - 1) // self.stride + 1


def _axes(step: IntegerStep, x: Tensor) -> list[_Axis]:
    assert step.weight is not None
    kernel, attrs = step.weight.shape[2:], step.attrs
    sizes = x.shape[-len(kernel) :]
    each = zip(sizes, kernel, attrs["stride"], attrs["dilation"], attrs["padding"], strict=True)
    if step.anchor.target not in CONV_TRANSPOSE:
        return [_Axis(n, k, s, d, 1, p, p) for n, k, s, d, p in each]
    margins = [(n, k, s, d, d * (k - 1) - p) for n, k, s, d, p in each]
    ends = attrs["output_padding"]
    return [_Axis(n, k, 1, d, s, m, m + end) for (n, k, s, d, m), end in zip(margins, ends, strict=True)]


def _positions_of(step: IntegerStep, x: Tensor) -> int:
    """Output positions of a sample."""
    if _spatial(step) == 0:
        return _with_samples(x).shape[1]
    return math.prod(axis.positions for axis in _axes(step, x))


def _patches(step: IntegerStep, x: Tensor, chosen: Tensor) -> Tensor:
    """What the output positions `chosen` read, less the zero point: float32 [channels, kernel positions, samples,
    chosen]."""
    zero_point = step.in_qparams[0].zero_point[0]
    if _spatial(step) == 0:
        found = _with_samples(x)[:, chosen].permute(2, 0, 1).unsqueeze(1).contiguous()
        return found.float().sub_(zero_point)
    axes = _axes(step, x)
    x = x if x.ndim == len(axes) + 2 else x.unsqueeze(0)
    padded = _padded(x, axes, zero_point)
    if len(chosen) == math.prod(axis.positions for axis in axes):
        return _every_patch(padded.float().sub_(zero_point), axes, len(chosen))
    places, flat = _places(axes, chosen), padded.flatten(2)
    found = flat.gather(2, places.flatten().expand(*flat.shape[:2], -1)).unflatten(2, places.shape)
    return found.permute(1, 2, 0, 3).contiguous().float().sub_(zero_point)


def _every_patch(padded: Tensor, axes: Sequence[_Axis], rows: int) -> Tensor:
    """`_patches` of all output positions, of which there are `rows`: copied along lines of the input, which is
    faster than place by place."""
    samples, channels, *_ = padded.shape
    for place, axis in enumerate(axes, 2):
        padded = padded.unfold(place, (axis.kernel - 1) * axis.dilation + 1, axis.stride)[..., :: axis.dilation]
    positions = range(2, 2 + len(axes))
    kernel = range(2 + len(axes), padded.ndim)
    return padded.permute(1, *kernel, 0, *positions).reshape(channels, -1, samples, rows)


def _places(axes: Sequence[_Axis], chosen: Tensor) -> Tensor:
    """Indices into the padded input, its spatial axes as one: [kernel positions, chosen]."""
    starts = torch.unravel_index(chosen, [axis.positions for axis in axes])
    places = torch.zeros(1, len(chosen), dtype=torch.int64)
    for axis, start in zip(axes, starts, strict=True):
        offsets = torch.arange(axis.kernel) * axis.dilation
        along = start * axis.stride + offsets[:, None]
        places = (places[:, None] * axis.padded + along).flatten(0, 1)
    return places


def _padded(x: Tensor, axes: Sequence[_Axis], zero_point: int) -> Tensor:
    """The integers `x` with zeros between them and around them, in their own type."""
    if any(axis.spread > 1 for axis in axes):
        sizes = [(axis.size - 1) * axis.spread + 1 for axis in axes]
        wide = torch.full((*x.shape[:2], *sizes), zero_point, dtype=x.dtype)
        wide[(slice(None), slice(None), *(slice(None, None, axis.spread) for axis in axes))] = x
        x = wide
    margins = [side for axis in reversed(axes) for side in (axis.before, axis.after)]
    return F.pad(x, margins, value=zero_point) if any(margins) else x


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
    if not all(map(is_clamp, step.fused)):  # a residual or an activation lies between
        return torch.full((1, 1, 1), -math.inf), torch.full((1, 1, 1), math.inf)
    qp, groups = step.out_qparams, groups_of(step)
    bounds = []
    for all_channels, channels in zip(step.clamp, (step.channel_low, step.channel_high), strict=True):
        integers = torch.tensor([all_channels]) if channels is None else channels.flatten()
        value = (integers - qp.zero_point[0]) * qp.scale[0]
        units = (value - bias_value(step)) / unit(step)
        bounds.append(units.reshape(groups, 1, -1) if units.numel() > 1 else units.reshape(1, 1, 1))
    return bounds[0], bounds[1]
