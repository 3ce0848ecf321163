"""What values a float graph can be expected to hold, from the statistics of its batch norms alone.

Each element of a value is taken as normal, with a mean and a variance. A layer that had a batch norm gives what
`ChannelStats` says, whatever is known of its input. From there on, for independent elements:

    activations (clamps, SiLU, GELU, sigmoid …)   the clipped normal; other functions by Gauss-Hermite quadrature
    add, sub, mul, div by numbers, constants, each other
    convolutions and linears without statistics   mean W·E[x] + b, variance W²·Var[x]
    views, pads with zeros, concats               the op itself, on means and on variances
    average pools, means, nearest upsampling      as views: positions rise and fall together

Inputs of the graph and results of other ops (max pools, norms, products of matrices) are not known. One sample is
held: [1, ...] where the batch is dynamic, so that the borders that pads make are seen.

Nagel et al., *Data-Free Quantization* (2019), §4.2 and appendix C (the clipped normal).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor, fx

from ..ir.channelwise import ELEMENTWISE, WINDOWS
from ..ir.clamps import is_clamp, tensor_bounds
from ..ir.constants import constant
from ..ir.nodes import describe
from ..ir.ops import OPS, SIZE_ARITHMETIC, VIEWS, aten, bound_args, clamp_bounds, op_name
from ..ir.shapes import tensor_meta
from .channel_stats import ChannelStats

_QUADRATURE = 32
_SMALLEST_STD = 1e-12


@dataclass(frozen=True, slots=True)
class Normal:
    """Mean and variance of each element: float64 tensors of one shape (or a list of them, of a split's pieces)."""

    mean: Any
    variance: Any


@dataclass(frozen=True, slots=True)
class Expected:
    """`known` holds values by node name; `unknown` says of every other node why nothing is known of it."""

    known: Mapping[str, Normal]
    unknown: Mapping[str, str]


class _Unknown(Exception):
    """Nothing can be said of a value; the message says why."""


def expected_values(gm: fx.GraphModule, stats: ChannelStats) -> Expected:
    """Mean and variance of the values of `gm` (stage FLOAT, annotated), as far as they follow from `stats`."""
    known: dict[str, Normal] = {}
    unknown: dict[str, str] = {}
    with torch.no_grad():
        for node in gm.graph.nodes:
            if node.op not in ("placeholder", "get_attr", "call_function"):
                continue
            try:
                known[node.name] = _expect(gm, node, stats, known, unknown)
            except _Unknown as reason:
                unknown[node.name] = str(reason)
    return Expected(known, unknown)


def clipped_normal(mean: Tensor, variance: Tensor, low: Tensor, high: Tensor) -> Normal:
    """Mean and variance of clamp(x, low, high) of a normal x; float64, bounds may be infinite."""
    std = variance.sqrt().clamp(min=_SMALLEST_STD)
    a, b = (low - mean) / std, (high - mean) / std
    below, above = torch.special.ndtr(a), torch.special.ndtr(-b)
    inside, density_a, density_b = 1 - below - above, _density(a), _density(b)
    # Of x - mean: the bounds have mass `below` and `above`, the part between them the rest.
    low, high = _times(a, below) * std, _times(b, above) * std
    shift = low + high + std * (density_a - density_b)
    second = _times(a * a, below) + _times(b * b, above) + inside + _times(a, density_a) - _times(b, density_b)
    return Normal(mean + shift, (second * std.square() - shift.square()).clamp(min=0))


def _density(x: Tensor) -> Tensor:
    return torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)


def _times(factor: Tensor, mass: Tensor) -> Tensor:
    """`factor · mass`, 0 where no mass lies at an infinite bound."""
    return torch.where(mass > 0, factor, 0.0) * mass


@dataclass(frozen=True, slots=True)
class _Call:
    """One node and what is known of the values that it reads."""

    node: fx.Node
    values: Mapping[str, Normal]

    def of(self, argument: object) -> Normal:
        """An argument that is a value, a constant or a number."""
        if isinstance(argument, fx.Node):
            return self.values[argument.name]
        number = torch.tensor(argument, dtype=torch.float64)
        return Normal(number, torch.zeros_like(number))

    def on_means(self, **changed: object) -> Any:
        return self._run(lambda value: value.mean, changed)

    def on_variances(self, **changed: object) -> Any:
        return self._run(lambda value: value.variance, changed)

    def _run(self, pick: Callable[[Normal], Any], changed: Mapping[str, object]) -> Any:
        node = self.node
        if isinstance(node.target, torch._ops.OpOverload):
            arguments = bound_args(node) | dict(changed)
            target = aten.reshape.default if node.target is aten.view.default else node.target
            args, keywords = [], {}
            for argument, (name, value) in zip(node.target._schema.arguments, arguments.items(), strict=True):
                found = fx.map_arg(value, lambda read: pick(self.values[read.name]))
                if argument.kwarg_only:
                    keywords[name] = found
                else:
                    args.append(found)
            return target(*args, **keywords)
        return node.target(*fx.map_arg(node.args, lambda read: pick(self.values[read.name])))  # type: ignore[operator]


def _expect(
    gm: fx.GraphModule,
    node: fx.Node,
    stats: ChannelStats,
    known: Mapping[str, Normal],
    unknown: Mapping[str, str],
) -> Normal:
    if node.op == "placeholder":
        raise _Unknown(f"nothing is known of the input {node.target}")
    if (value := constant(gm, node)) is not None:
        value = value.double() if value.is_floating_point() else value
        return Normal(value, torch.zeros_like(value))
    if node.target in OPS and (found := _from_batch_norm(node, stats)) is not None:
        return found
    for read in node.all_input_nodes:
        if read.name in unknown:
            raise _Unknown(unknown[read.name])
    rule = _clamp if is_clamp(node) else _RULES.get(node.target)
    if rule is None:
        raise _Unknown(f"what {op_name(node.target)} gives at {describe(node)} is not known")
    return rule(_Call(node, known))


def _from_batch_norm(node: fx.Node, stats: ChannelStats) -> Normal | None:
    weight, meta = node.args[1], tensor_meta(node)
    stat = stats.by_weight.get(str(weight.target)) if isinstance(weight, fx.Node) else None
    if stat is None or meta is None:
        return None
    shape = [size if isinstance(size, int) else 1 for size in meta.shape]
    after = [1] * OPS[node.target].spatial  # type: ignore[index]
    mean, variance = stat.mean.double(), stat.std.double().square()
    return Normal(mean.view(-1, *after).expand(shape), variance.view(-1, *after).expand(shape))


def _clamp(call: _Call) -> Normal:
    bounds: Any = clamp_bounds(call.node) or tensor_bounds(call.node)
    x = call.of(call.node.args[0])
    limits = (-math.inf, math.inf)
    low, high = (
        torch.as_tensor(limit if bound is None else bound, dtype=torch.float64)
        for bound, limit in zip(bounds, limits, strict=True)
    )
    return clipped_normal(x.mean, x.variance, low, high)


def _by_quadrature(call: _Call) -> Normal:
    """An elementwise function of one value."""
    x = call.of(call.node.args[0])
    std = x.variance.sqrt()
    points, weights = hermegauss(_QUADRATURE)
    first, second = torch.zeros_like(x.mean), torch.zeros_like(x.mean)
    for point, weight in zip(points.tolist(), (weights / weights.sum()).tolist(), strict=True):
        y = call.node.target(x.mean + point * std, *call.node.args[1:], **call.node.kwargs)  # type: ignore[operator]
        first += weight * y
        second += weight * y.square()
    return Normal(first, (second - first.square()).clamp(min=0))


def _same_op(call: _Call) -> Normal:
    """Views, averages and concats; sizes are plain numbers in both."""
    return Normal(call.on_means(), call.on_variances())


def _pad(call: _Call) -> Normal:
    """Pads of a constant; the constant does not vary."""
    if bound_args(call.node).get("mode", "constant") != "constant":
        return _same_op(call)
    return Normal(call.on_means(), call.on_variances(value=0.0))


def _sum(call: _Call) -> Normal:
    left, right = (call.of(argument) for argument in call.node.args[:2])
    factor = bound_args(call.node)["alpha"]
    return Normal(call.on_means(), left.variance + factor**2 * right.variance)


def _product(call: _Call) -> Normal:
    left, right = (call.of(argument) for argument in call.node.args[:2])
    variance = left.variance * (right.variance + right.mean.square()) + left.mean.square() * right.variance
    return Normal(left.mean * right.mean, variance)


def _quotient(call: _Call) -> Normal:
    left, right = (call.of(argument) for argument in call.node.args[:2])
    if bool(right.variance.any()) or bool((right.mean == 0).any()):
        raise _Unknown(f"what {op_name(call.node.target)} gives at {describe(call.node)} is not known")
    return Normal(left.mean / right.mean, left.variance / right.mean.square())


def _layer(call: _Call) -> Normal:
    """A convolution or linear without statistics of its own; its weight is a constant."""
    weight = call.of(call.node.args[1])
    if bool(weight.variance.any()):
        raise _Unknown(f"the weight of {describe(call.node)} is computed, not constant")
    squared = _Call(call.node, {**call.values, str(call.node.args[1]): Normal(None, weight.mean.square())})
    return Normal(call.on_means(), squared.on_variances(bias=None))


_AVERAGES = (
    *(op for op, window in WINDOWS.items() if window.mean),
    aten.cat.default,
    aten.mean.dim,
    aten.sym_size.int,
)
_RULES: Mapping[Any, Callable[[_Call], Normal]] = {
    **dict.fromkeys(OPS, _layer),
    **dict.fromkeys(ELEMENTWISE, _by_quadrature),
    **dict.fromkeys((*VIEWS, *SIZE_ARITHMETIC, *_AVERAGES), _same_op),
    aten.pad.default: _pad,
    aten.constant_pad_nd.default: _pad,
    aten.add.Tensor: _sum,
    aten.sub.Tensor: _sum,
    aten.mul.Tensor: _product,
    aten.div.Tensor: _quotient,
}
