"""What quantization noise each channel of a float graph costs at the graph's outputs, as a function of its scale.

To first order a small error e of a weight or an activation changes an output y by (∂y/∂e) · e. With the error of
rounding spread evenly over a step Δ, the noise of the outputs is Σ (∂y/∂e)² · Δ²/12 over all weights and all
quantized activations. The squared derivatives (the diagonal of the Fisher matrix for a squared loss) are measured
on samples: one backward pass with random signs on all outputs estimates their sum over the outputs without bias.

Dividing channel c by a factor s_c scales its derivatives by s_c and its values by 1/s_c:

    weights of a layer       Δ = max |w[o,i]| s_i/s_o / qmax, over the tensor or over a row; (∂y/∂w)² s_o²/s_i²
    a quantized activation   Δ = (max high_c/s_c - min low_c/s_c) / 255;                     (∂y/∂x)² s_c²

qmax is that of the weight's bits: 127 for 8, 3 for 3. A layer that stays float has no noise of its own, nor has a
value that no integer layer makes or reads.

Every term is a product of powers of sums of powers of the factors, so the noise is convex in their logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ...compiler.ir.clamps import is_clamp
from ...compiler.ir.constants import constant
from ...compiler.ir.gains import breaks_scale, is_gain
from ...compiler.ir.nodes import sole_user
from ...compiler.ir.ops import OPS, aten
from ...compiler.quant.layer_options import LayerOptions
from ...compiler.quant.output_noise import output_parts
from ...compiler.quant.walk import takes_any_batch
from .maps import ChannelMap, LayerChannels

_POWER = 16  # of the norm that stands for a maximum where derivatives are needed
_ACTIVATION_STEPS = 255
_CHUNK = 2  # samples of one backward pass

# Ops whose result a runtime quantizes anew; all others pass integers on.
_QUANTIZED = frozenset({*OPS, aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.cat.default}) | {
    aten.leaky_relu.default,
    aten.prelu.default,
    aten.layer_norm.default,
    aten.matmul.default,
    aten.bmm.default,
}


@dataclass(frozen=True, slots=True)
class Maximum:
    """Non-negative values whose largest is sought; where derivatives are needed a norm stands for it, and `powers`
    are the values as parts of `largest` to the power of that norm."""

    values: Tensor
    largest: float
    powers: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Maximum:
        largest = max(float(values.max()), 1e-300)
        return cls(values, largest, (values / largest) ** _POWER)

    def norm(self, sums: Tensor) -> Tensor:
        """From sums of scaled `powers`."""
        return (sums + 1e-300) ** (1 / _POWER) * self.largest


@dataclass(frozen=True, slots=True)
class WeightNoise:
    """Largest magnitudes over the kernel and Σ (∂y/∂w)² over it, both [groups, out, in]. `steps` are the integers
    above zero that a weight can take (infinitely many in float), over the range of a row or `per_tensor`."""

    layer: LayerChannels
    ranges: Maximum
    sensitivity: Tensor
    steps: float
    per_tensor: bool

    @classmethod
    def of(cls, layer: LayerChannels, weight: Tensor, squares: Tensor, options: LayerOptions) -> WeightNoise:
        """From the weight and its squared derivatives, in the weight's own order."""
        by_group = [layer.by_group(item) for item in (weight.double().abs(), squares.double())]
        sizes, squares = (item.reshape(*item.shape[:3], -1) for item in by_group)
        steps = math.inf if options.quantize is False else 2 ** ((options.weight_bits or 8) - 1) - 1
        return cls(layer, Maximum.of(sizes.amax(3)), squares.sum(3), steps, bool(options.per_tensor))


@dataclass(frozen=True, slots=True)
class ValueNoise:
    """A quantized activation: class, depth below and height above zero, Σ (∂y/∂x)² of each channel, [channels]."""

    ids: Tensor
    low: Maximum
    high: Maximum
    sensitivity: Tensor


@dataclass(frozen=True, slots=True)
class NoiseModel:
    """Noise of all layers and activations with a free class; float64. `signal` is the power of the outputs that it
    was measured against."""

    weights: tuple[WeightNoise, ...]
    values: tuple[ValueNoise, ...]
    signal: float = 1.0

    def total(self, logs: Tensor) -> float:
        """Noise power at the outputs for factors exp(logs) [classes]."""
        factors, power = logs.exp(), 0.0
        for item in self.weights:
            ratio = _columns(item, factors[item.layer.in_ids]) / _rows(item, factors[item.layer.out_ids])
            steps = (item.ranges.values * ratio).amax(2, keepdim=True) / item.steps
            steps = steps.max() if item.per_tensor else steps
            power += float((steps**2 * item.sensitivity / ratio**2).sum())
        for value in self.values:
            held = factors[value.ids]
            step = ((value.high.values / held).max() + (value.low.values / held).max()) / _ACTIVATION_STEPS
            power += float(step**2 * (value.sensitivity * held**2).sum())
        return power / 12

    def touching(self, classes: Tensor) -> NoiseModel:
        """The part of it that depends on the factors of these classes."""
        weights = [
            w for w in self.weights if torch.isin(torch.cat([w.layer.in_ids, w.layer.out_ids]), classes).any()
        ]
        values = [value for value in self.values if torch.isin(value.ids, classes).any()]
        return NoiseModel(tuple(weights), tuple(values), self.signal)

    def classes(self) -> Tensor:
        """All classes that it depends on, int64."""
        read = [ids for item in self.weights for ids in (item.layer.in_ids, item.layer.out_ids)]
        return torch.cat([torch.zeros(0, dtype=torch.int64), *read, *(item.ids for item in self.values)]).unique()

    def smooth(self, logs: Tensor) -> Tensor:
        """The same with derivatives everywhere; maxima are taken for somewhat larger. Factors of all layers are
        gathered at once: the search asks often, and single calls are what costs."""
        squares, powers = (2 * logs).exp(), (_POWER * logs).exp()
        read = _gathered([item.layer.in_ids for item in self.weights], 1 / squares, powers)
        given = _gathered([item.layer.out_ids for item in self.weights], squares, 1 / powers)
        held = _gathered([item.ids for item in self.values], squares, 1 / powers)
        terms = [_smooth_weight(*args) for args in zip(self.weights, *read, *given, strict=True)]
        terms += [_smooth_value(*args) for args in zip(self.values, *held, strict=True)]
        return torch.stack(terms).sum() / 12


def _smooth_weight(
    item: WeightNoise, read_loss: Tensor, read_power: Tensor, given_loss: Tensor, given_power: Tensor
) -> Tensor:
    loss = item.sensitivity @ _columns(item, read_loss).transpose(1, 2) * _rows(item, given_loss)
    sums = item.ranges.powers @ _columns(item, read_power).transpose(1, 2) * _rows(item, given_power)
    if item.per_tensor:
        return (item.ranges.norm(sums.sum()) / item.steps) ** 2 * loss.sum()
    return ((item.ranges.norm(sums) / item.steps) ** 2 * loss).sum()


def _columns(item: WeightNoise, of_inputs: Tensor) -> Tensor:
    return of_inputs.view(item.layer.groups, 1, -1)


def _rows(item: WeightNoise, of_outputs: Tensor) -> Tensor:
    return of_outputs.view(item.layer.groups, -1, 1)


def _smooth_value(item: ValueNoise, loss: Tensor, power: Tensor) -> Tensor:
    width = item.high.norm(item.high.powers @ power) + item.low.norm(item.low.powers @ power)
    return (width / _ACTIVATION_STEPS) ** 2 * (item.sensitivity @ loss)


def _gathered(ids: Sequence[Tensor], *tables: Tensor) -> list[Sequence[Tensor]]:
    """Each table [classes] at each of the ids."""
    if not ids:
        return [[] for _ in tables]
    every, sizes = torch.cat(list(ids)), [item.numel() for item in ids]
    return [table[every].split(sizes) for table in tables]


def measure_noise(
    gm: fx.GraphModule,
    channels: ChannelMap,
    batches: Iterable[Sequence[Tensor]],
    options: Callable[[fx.Node], LayerOptions],
    seed: int,
) -> NoiseModel:
    """The noise model of `gm` on the samples in `batches`, for weights by the `options` of each layer."""
    recorder = _Recorder(gm, channels, options)
    generator = torch.Generator().manual_seed(seed)
    for batch in batches:
        chunk = _CHUNK if takes_any_batch(gm) else len(batch[0])
        for start in range(0, len(batch[0]), chunk):
            recorder.add(tuple(tensor[start : start + chunk] for tensor in batch), generator)
    return NoiseModel(recorder.weights(), recorder.values(), recorder.signal)


def _is_quantized(node: fx.Node) -> bool:
    if (user := sole_user(node)) is not None and is_clamp(user):
        return False
    return node.target in _QUANTIZED or (node.op == "call_function" and is_clamp(node))


class _Recorder(fx.Interpreter):
    """Runs the graph with derivatives, and adds up what each run shows."""

    def __init__(
        self, gm: fx.GraphModule, channels: ChannelMap, options: Callable[[fx.Node], LayerOptions]
    ) -> None:
        super().__init__(gm)
        free = channels.free
        self._gm, self._options = gm, options
        layers = [x for x in channels.layers if bool(free[x.in_ids].any() or free[x.out_ids].any())]
        self._layers = {layer.weight: layer for layer in reversed(layers)}
        self._ids = {
            node: (axis, ids)
            for node, (axis, ids) in channels.ids.items()
            if _is_quantized(node) and not self._is_float(node) and bool(free[ids].any())
        }
        self._weights = {node: self._leaf(node) for node in self._layers}
        self._squares = {node: torch.zeros_like(leaf, dtype=torch.float64) for node, leaf in self._weights.items()}
        self._stats: dict[fx.Node, Tensor] = {}
        self._live: dict[fx.Node, Tensor] = {}
        self._parts, self._outputs = frozenset(output_parts(gm)), list[Tensor]()
        self.signal = 0.0

    def _is_float(self, node: fx.Node) -> bool:
        """Whether a float layer or activation makes it, and such alone read it."""
        layers = [other for other in (node, *node.users) if other.target in OPS]
        if any(self._options(layer).quantize is not False for layer in layers):
            return False
        made = node in layers or is_gain(node)
        return made and all(user in layers or is_gain(user) or breaks_scale(user) for user in node.users)

    def _leaf(self, node: fx.Node) -> Tensor:
        weight = constant(self._gm, node)
        assert weight is not None
        return weight.clone().requires_grad_()

    def run_node(self, n: fx.Node) -> Any:
        if n in self._weights:
            return self._weights[n]
        value = super().run_node(n)
        if n in self._ids:
            value = value if value.requires_grad else value.detach().requires_grad_()
            self._live[n] = value
        if n in self._parts and isinstance(value, Tensor) and value.is_floating_point():
            self._outputs.append(value)
        return value

    def add(self, inputs: tuple[Tensor, ...], generator: torch.Generator) -> None:
        self._live, self._outputs = {}, []
        with torch.enable_grad():
            self.run(*inputs)
        outputs = [item for item in self._outputs if item.requires_grad]
        signs = [_random_signs(item, generator) for item in outputs]
        self.signal += sum(item.numel() for item in outputs)  # the signs make the mean square of each output 1
        leaves = self._weights | self._live
        found: Sequence[Tensor | None] = [None] * len(leaves)
        if outputs and leaves:
            found = torch.autograd.grad(outputs, list(leaves.values()), signs, allow_unused=True)
        gradients = dict(zip(leaves, found, strict=True))
        for node, squares in self._squares.items():
            gradient = gradients[node]
            squares += 0 if gradient is None else gradient.double() ** 2
        for node in self._live:
            self._add_value(node, gradients[node])

    def _add_value(self, node: fx.Node, gradient: Tensor | None) -> None:
        axis = self._ids[node][0]
        value = self._live[node].detach()
        others = [other for other in range(value.ndim) if other != axis]
        squares = torch.zeros_like(value) if gradient is None else gradient.double() ** 2
        new = torch.stack([value.amin(others).double(), value.amax(others).double(), squares.sum(others).double()])
        old = self._stats.get(node)
        if old is not None:
            new = torch.stack([torch.minimum(old[0], new[0]), torch.maximum(old[1], new[1]), old[2] + new[2]])
        self._stats[node] = new

    def weights(self) -> tuple[WeightNoise, ...]:
        return tuple(
            WeightNoise.of(layer, self._weights[node].detach(), self._squares[node], self._options(layer.node))
            for node, layer in self._layers.items()
        )

    def values(self) -> tuple[ValueNoise, ...]:
        return tuple(
            ValueNoise(self._ids[node][1], Maximum.of(-low.clamp(max=0)), Maximum.of(high.clamp(min=0)), squares)
            for node, (low, high, squares) in self._stats.items()
        )


def _random_signs(output: Tensor, generator: torch.Generator) -> Tensor:
    """±1 over the output's own size, so that every output counts alike."""
    signs = torch.randint(0, 2, output.shape, generator=generator).to(output.dtype) * 2 - 1
    return signs / output.detach().square().mean().sqrt().clamp(min=1e-30)
