"""What each channel around a layer can hold, by interval arithmetic over the graph.

Every element of every float value gets a low and a high end, float64. A layer with constant parameters maps the
center c and the half width r of its input to op(c, W, b) ± op(r, |W|), padding included; ops that never decrease
map the ends; some, as hardswish, have one valley. What no rule bounds (inputs, other ops) is taken to stay within
`margin` times the largest magnitude that the value has on the example inputs, and so is every other value: without
that, bounds grow by orders of magnitude from layer to layer. Bounds are therefore certain only as far as that is.

Moore, *Interval Analysis* (1966); for networks Gowal et al., *Interval Bound Propagation* (2018).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.fx.node import map_aggregate

from ..compiler.ir.channelwise import ELEMENTWISE, WINDOWS
from ..compiler.ir.nodes import placeholders
from ..compiler.ir.ops import OPS, VIEWS, OpInfo, aten
from ..compiler.ir.shapes import tensor_meta

_UNBOUNDED = 1e30  # where nothing is known; infinity would make 0 · infinity of a weight of zero
_RISING = {
    *VIEWS,
    *(op for op, function in ELEMENTWISE.items() if function.rises),
    *(op for op, window in WINDOWS.items() if window.rises),
    aten.clamp.Tensor,
    aten.prelu.default,
    aten.add.Tensor,
    aten.cat.default,
    aten.stack.default,
    aten.maximum.default,
    aten.minimum.default,
    aten.constant_pad_nd.default,
    aten.mean.dim,
    aten.sum.dim_IntList,
    aten.amax.default,
}
# Op -> where its only minimum is; it falls before and rises after.
_VALLEYS = {
    op: function.lowest
    for op, function in ELEMENTWISE.items()
    if function.lowest is not None and not function.rises
}


@dataclass(frozen=True, slots=True)
class ChannelRange:
    """Ends of each channel over all other axes, float64 [channels]; `typical` are the channels' largest magnitudes
    on the example inputs."""

    low: Tensor
    high: Tensor
    typical: Tensor

    def constants(self, tolerance: float) -> tuple[Tensor, Tensor]:
        """Which channels always hold the same value, and the value.

        Constant to `tolerance` times the value itself. Values below `tolerance` · 1e-7 of the largest channel
        count as zero: no weight in float32 makes them matter.
        """
        middle, width = (self.low + self.high) / 2, self.high - self.low
        floor = 1e-7 * float(self.typical.max())
        is_constant = width <= tolerance * middle.abs().clamp(min=floor)
        return is_constant, torch.where(middle.abs() <= tolerance * floor, 0.0, middle)


@dataclass(slots=True)
class ChannelRanges:
    """Ranges of the layers' inputs and outputs over their channel axes, and of the elementwise ops that read a
    layer directly (over that layer's channels)."""

    inputs: dict[fx.Node, ChannelRange] = field(default_factory=dict)
    outputs: dict[fx.Node, ChannelRange] = field(default_factory=dict)
    readers: dict[fx.Node, ChannelRange] = field(default_factory=dict)


def channel_ranges(gm: fx.GraphModule, examples: Sequence[Tensor], margin: float) -> ChannelRanges:
    """Ranges around every conv, conv_transpose and linear with a constant weight."""
    walk = _Walk(gm, _largest(gm, examples), margin)
    with torch.no_grad():
        walk.run(*_one_sample(gm, examples))
    return walk.ranges


@dataclass(frozen=True, slots=True)
class _Span:
    """A float tensor of one example, and the ends of what it can be, of its shape, float64."""

    sample: Tensor
    low: Tensor
    high: Tensor


class _Largest(fx.Interpreter):
    """Largest magnitude of each value."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self.found: dict[str, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
            self.found[n.name] = float(value.abs().max())
        return value


def _largest(gm: fx.GraphModule, examples: Sequence[Tensor]) -> dict[str, float]:
    measure = _Largest(gm)
    with torch.no_grad():
        measure.run(*examples)
    return measure.found


def _one_sample(gm: fx.GraphModule, examples: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The first sample where axis 0 may have any size; ends do not depend on the sample."""
    metas = [tensor_meta(node) for node in placeholders(gm)]
    free = all(meta is not None and meta.ndim and not isinstance(meta.shape[0], int) for meta in metas)
    return tuple(tensor[:1] if free else tensor for tensor in examples)


class _Walk(fx.Interpreter):
    def __init__(self, gm: fx.GraphModule, largest: Mapping[str, float], margin: float) -> None:
        super().__init__(gm)
        self.ranges = ChannelRanges()
        self._largest, self._margin = largest, margin

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "placeholder" and isinstance(value, Tensor) and value.is_floating_point():
            value = _unbounded(value)
        if isinstance(value, _Span):
            if n.op != "get_attr":
                value = self._limit(n, value)
            self._record(n, value)
        return value

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().get_attr(target, args, kwargs)
        return _Span(value, value.double(), value.double()) if value.is_floating_point() else value

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        sample = target(*_part(args, "sample"), **_part(kwargs, "sample"))
        return _spans(sample, _ends(target, args, kwargs))

    def _limit(self, node: fx.Node, value: _Span) -> _Span:
        """Within the margin of what the examples show; a value that is zero on all of them shows nothing."""
        bound = self._margin * self._largest.get(node.name, 0.0)
        if not 0 < bound < _UNBOUNDED:
            bound = _UNBOUNDED
        return _Span(value.sample, value.low.clamp(-bound, bound), value.high.clamp(-bound, bound))

    def _record(self, node: fx.Node, value: _Span) -> None:
        source = node.args[0] if node.op == "call_function" else None
        if not isinstance(source, fx.Node):
            return
        if isinstance(node.target, OpOverload) and (info := OPS.get(node.target)) is not None:
            read = self.env[source]
            assert isinstance(read, _Span)
            self.ranges.inputs[node] = _channel_range(read, info)
            self.ranges.outputs[node] = _channel_range(value, info)
        elif node.target in ELEMENTWISE and isinstance(source.target, OpOverload) and source.target in OPS:
            self.ranges.readers[node] = _channel_range(value, OPS[source.target])


def _channel_range(value: _Span, info: OpInfo) -> ChannelRange:
    axis = value.low.ndim - 1 - info.spatial
    low, high, sample = (end.movedim(axis, 0).flatten(1) for end in (value.low, value.high, value.sample))
    return ChannelRange(low.amin(1), high.amax(1), sample.double().abs().amax(1))


def _part(args: Any, name: str) -> Any:
    return map_aggregate(args, lambda item: getattr(item, name) if isinstance(item, _Span) else item)


def _unbounded(sample: Tensor) -> _Span:
    ends = torch.full_like(sample, _UNBOUNDED, dtype=torch.float64)
    return _Span(sample, -ends, ends)


def _spans(sample: Any, ends: tuple[Any, Any] | None) -> Any:
    """The result of a call with its ends, item by item where it gives several."""
    if isinstance(sample, (tuple, list)):
        pairs = [None] * len(sample) if ends is None else zip(*ends, strict=True)
        return [_spans(item, pair) for item, pair in zip(sample, pairs, strict=True)]
    if not isinstance(sample, Tensor) or not sample.is_floating_point():
        return sample
    return _unbounded(sample) if ends is None else _Span(sample, *ends)


def _ends(target: Any, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
    """Low and high end of a call's result, or None where no rule bounds it."""
    if target in OPS:
        return _layer(target, args)
    if target in _RULES:
        return None if kwargs else _RULES[target](*(_ends_of(arg) for arg in args))
    if target in _VALLEYS:
        return _valley(target, args[0])
    if target not in _RISING or not _rises(target, args, kwargs):
        return None
    low, high = (target(*_part(args, end), **_part(kwargs, end)) for end in ("low", "high"))
    return low, high


def _layer(target: Any, args: Any) -> tuple[Tensor, Tensor] | None:
    value, weight, bias, *rest = (*args, None) if len(args) == 2 else args
    if not (_is_fixed(weight) and (bias is None or _is_fixed(bias))):
        return None
    center, radius = (value.low + value.high) / 2, (value.high - value.low) / 2
    middle = target(center, weight.low, None if bias is None else bias.low, *rest)
    reach = target(radius, weight.low.abs(), None, *rest)
    return middle - reach, middle + reach


def _is_fixed(value: object) -> bool:
    return isinstance(value, _Span) and torch.equal(value.low, value.high)


def _valley(target: Any, value: _Span) -> tuple[Tensor, Tensor]:
    lowest = torch.full_like(value.low, _VALLEYS[target]).clamp(value.low, value.high)
    return target(lowest), torch.maximum(target(value.low), target(value.high))


def _rises(target: Any, args: Any, kwargs: Any) -> bool:
    """Whether an op of `_RISING` does rise in all its tensors with these arguments."""
    if target is aten.prelu.default:
        return bool((args[1].low >= 0).all())
    if target in (aten.leaky_relu.default, aten.elu.default):
        return all(number >= 0 for number in args[1:])
    return bool(kwargs.get("alpha", 1) >= 0)


Ends = tuple[Any, Any]


def _ends_of(value: Any) -> Ends:
    return (value.low, value.high) if isinstance(value, _Span) else (value, value)


def _difference(left: Ends, right: Ends) -> Ends:
    return left[0] - right[1], left[1] - right[0]


def _product(left: Ends, right: Ends) -> Ends:
    corners = [a * b for a in left for b in right]
    return (
        functools.reduce(torch.minimum, corners),
        functools.reduce(torch.maximum, corners),
    )


def _quotient(left: Ends, right: Ends) -> Ends | None:
    if isinstance(right[0], Tensor) or right[0] == 0:
        return None
    return _product(left, (1 / right[0], 1 / right[0]))


_RULES: Mapping[Any, Callable[..., Ends | None]] = {
    aten.sub.Tensor: _difference,
    aten.mul.Tensor: _product,
    aten.div.Tensor: _quotient,
    aten.neg.default: lambda value: (-value[1], -value[0]),
}
