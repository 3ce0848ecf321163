"""Make the channels that linears read alike in size, their weights taking up the difference (SmoothQuant).

    s = max|x|^alpha / max|weight|^(1 - alpha)     for each channel that linears or 1x1 convs read
    x becomes x / s, their weights for the channel become weight · s

What computes x takes up 1 / s: gain and shift of a layer norm, the rows of a linear or conv, and whatever else has
these channels (`channels/maps.py`: residual sums, views, attention between value and output projection). All
readers of a value take part together. The factors of a value have the geometric mean 1: only ratios count.

A layer norm whose result a residual sum reads too cannot take up 1 / s, for the sum leads into another norm. With
`multiply` its linears read a product with 1 / s instead. Layer norms run in float everywhere, and so does that.
Linears that add to such a stream are relieved of their outliers too (`_smooth_outputs.py`): BERT models lose more
by these than by what linears read (MiniLM, int8: embeddings are off by 0.33, 0.32 and 0.11 of their size without
the pass, without `outliers` and with all of it).

Xiao et al., *SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models* (2022), §4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from ..compiler.ir.constants import add_constant, constant, set_constant
from ..compiler.ir.nodes import describe, placeholders
from ..compiler.ir.ops import CONV, aten, bound_args
from ..compiler.ir.passes import Numerics, PassContext, PassResult, Skip
from ..compiler.ir.stages import Stage
from ._layers import parameters
from ._rewrite import insert_call
from ._smooth_outputs import divide_back, output_logarithms, residual_outputs
from .channels.maps import ChannelMap, LayerChannels, channel_map
from .channels.rescale import rescale

# Factors that near to 1 (in logarithms) change nothing; a second run finds those.
_NOTHING = 0.01


@dataclass(frozen=True, slots=True)
class SmoothActivations:
    """Scale what linears read by measured maxima; `alpha` is the part of the spread that their weights take up.

    `outliers`: a linear before a residual sum is scaled if one of its channels is so many times its median one.
    `norms_only` leaves a network without layer norms alone: `EqualizeLayers` finds better factors there.
    `changes` counts the values smoothed.
    """

    name: ClassVar[str] = "smooth-activations"
    requires: ClassVar[Stage] = Stage.FLOAT
    ensures: ClassVar[Stage] = Stage.FLOAT
    numerics: ClassVar[Numerics] = "close"

    alpha: float = 0.5
    multiply: bool = True
    outliers: float = 8.0
    norms_only: bool = False

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> PassResult:
        if ctx.batches is None:
            names = ", ".join(node.name for node in placeholders(gm))
            return PassResult(0, (Skip(names, "without calibration batches the largest values are not known"),))
        if self.norms_only and not gm.graph.find_nodes(op="call_function", target=aten.layer_norm.default):
            return PassResult(0)
        outputs = residual_outputs(gm)
        largest = _largest(gm, dict.fromkeys(outputs, -1) | _axes_read(gm), ctx.batches())
        divided, skipped = self._divide_outputs(gm, outputs, largest)
        channels = channel_map(gm)
        choice = self._choose(gm, channels, largest)
        rescale(gm, channels, choice.factors, ctx.channel_stats)
        for value, logs in choice.multiplied:
            _multiply(gm, value, logs.exp())
        changes = divided + choice.scaled + len(choice.multiplied)
        return PassResult(changes, (*skipped, *reversed(choice.skipped)))

    def _choose(self, gm: fx.GraphModule, channels: ChannelMap, largest: Mapping[fx.Node, Tensor]) -> _Choice:
        """Later values first: their factors change the rows of the weights that read earlier ones."""
        choice, values = _Choice(torch.ones(channels.count, dtype=torch.float64)), _values(channels)
        for value in reversed(values):
            logs = _logarithms(largest[value.node], value.weights(gm, choice.factors), self.alpha)
            if bool((logs.abs() < _NOTHING).all()):
                continue
            if (reason := _obstacle(value, values, channels)) is None:
                factors = _factors(channels, value.ids, logs)
                if bool((factors.log().abs() < _NOTHING).all()):
                    continue
                choice.factors *= factors
                choice.scaled += 1
            elif self.multiply and value.is_multipliable:
                choice.multiplied.append((value, logs))
            else:
                choice.skipped.append(Skip(value.node.name, f"{describe(value.node)} keeps its scale: {reason}"))
        return choice

    def _divide_outputs(
        self, gm: fx.GraphModule, outputs: Sequence[fx.Node], largest: Mapping[fx.Node, Tensor]
    ) -> tuple[int, list[Skip]]:
        changes, skipped = 0, []
        for node in outputs:
            logs = output_logarithms(largest[node], self.outliers)
            if not bool(logs.any()):
                continue
            match parameters(gm, node):
                case str() as reason:
                    skipped.append(Skip(node.name, f"{describe(node)} keeps its outliers: {reason}"))
                case layer:
                    divide_back(gm, layer, logs.exp())
                    changes += 1
        return changes, skipped


@dataclass(slots=True)
class _Choice:
    """The factor of each class, for `scaled` values; values to multiply, with logarithms; values left alone."""

    factors: Tensor
    scaled: int = 0
    multiplied: list[tuple[_Value, Tensor]] = field(default_factory=list)
    skipped: list[Skip] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Value:
    """What `readers`, all of the linears and 1x1 convs that read `node`, read."""

    node: fx.Node
    readers: tuple[LayerChannels, ...]

    @property
    def ids(self) -> Tensor:
        """The class of each channel."""
        return self.readers[0].in_ids

    @property
    def is_multipliable(self) -> bool:
        shared = any(len(reader.weight.users) > 1 for reader in self.readers)
        return self.node.target is aten.layer_norm.default and not shared

    def weights(self, gm: fx.GraphModule, factors: Tensor) -> Tensor:
        """The largest weight that reads each channel once `factors` are in place, float64 [channels]."""
        found = []
        for reader in self.readers:
            weight = constant(gm, reader.weight)
            assert weight is not None
            found.append(reader.scaled(weight, factors).abs().flatten(1).amax(0))
        return torch.stack(found).amax(0)


def _values(channels: ChannelMap) -> list[_Value]:
    readers: dict[fx.Node, list[LayerChannels]] = {}
    for layer in channels.layers:
        if _is_pointwise(layer.node):
            readers.setdefault(layer.node.args[0], []).append(layer)  # type: ignore[arg-type]
    return [_Value(node, tuple(found)) for node, found in readers.items()]


def _axes_read(gm: fx.GraphModule) -> dict[fx.Node, int]:
    """What linears and 1x1 convs read -> its channel axis."""
    layers = [node for node in gm.graph.nodes if _is_pointwise(node)]
    return {node.args[0]: 1 if node.target in CONV else -1 for node in layers}


def _is_pointwise(node: fx.Node) -> bool:
    """Linears, and convs that are linears at each place."""
    if node.target not in CONV:
        return node.target is aten.linear.default
    gm, args = node.graph.owning_module, bound_args(node)
    weight = None if gm is None else constant(gm, args["weight"])
    return weight is not None and args["groups"] == 1 and set(weight.shape[2:]) == {1}


def _largest(
    gm: fx.GraphModule, axes: Mapping[fx.Node, int], batches: Iterable[tuple[Tensor, ...]]
) -> Mapping[fx.Node, Tensor]:
    """The largest magnitude of each channel (along the axis given) of each value over all batches, float64."""
    measuring = _Measuring(gm, axes)
    with torch.no_grad():
        for batch in batches:
            measuring.run(*batch)
    return measuring.largest


class _Measuring(fx.Interpreter):
    def __init__(self, gm: fx.GraphModule, axes: Mapping[fx.Node, int]) -> None:
        super().__init__(gm)
        self.largest: dict[fx.Node, Tensor] = {}
        self._axes = axes

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self._axes:
            found = result.abs().transpose(0, self._axes[n]).flatten(1).amax(1).double()
            self.largest[n] = torch.maximum(found, self.largest.get(n, found))
        return result


def _logarithms(largest: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """log s of each channel, 0 for one that is always 0 or that no weight reads; their mean is 0."""
    is_used = (largest > 0) & (weights > 0)
    logs = alpha * largest.log() - (1 - alpha) * weights.log()
    logs = torch.where(is_used, logs, 0.0)
    return torch.where(is_used, logs - logs.sum() / is_used.sum().clamp(min=1), 0.0)


def _obstacle(value: _Value, values: Sequence[_Value], channels: ChannelMap) -> str | None:
    """Why the channels of a value do not scale, or only at a price to others."""
    ids = set(value.ids.tolist())
    if all(index in channels.reasons for index in ids):
        return channels.reasons[int(value.ids[0])]
    for layer in channels.layers:
        if not _is_pointwise(layer.node) and not ids.isdisjoint(layer.in_ids.tolist()):
            return f"{describe(layer.node)}, which is not a linear, reads its channels too"
    for other in values:
        if other is not value and not ids.isdisjoint(other.ids.tolist()):
            return f"{describe(other.node)} shares its channels and has readers of its own"
    for clamp in channels.clamps:
        if not ids.isdisjoint(clamp.ids.flatten().tolist()):
            return f"{describe(clamp.node)} would need a bound for each channel"
    return None


def _factors(channels: ChannelMap, ids: Tensor, logs: Tensor) -> Tensor:
    """The factor of each class, float64 [classes]: the geometric mean of what its channels want, apart from those
    that want nothing; 1 where fixed."""
    total, count = torch.zeros(2, channels.count, dtype=torch.float64)
    total.index_add_(0, ids, logs)
    count.index_add_(0, ids, (logs != 0).double())
    return torch.where(channels.free, total / count.clamp(min=1), 0.0).exp()


def _multiply(gm: fx.GraphModule, value: _Value, factors: Tensor) -> None:
    """Let the readers read a product of the value and 1 / factors."""
    nodes = {reader.node for reader in value.readers}
    first = next(node for node in gm.graph.nodes if node in nodes)
    scale = add_constant(gm, f"{value.node.name}_smoothing", (1 / factors).float(), first)
    product = insert_call(gm, first, aten.mul.Tensor, (value.node, scale), value=value.node.meta.get("val"))
    for reader in value.readers:
        weight = constant(gm, reader.weight)
        assert weight is not None
        set_constant(gm, str(reader.weight.target), (weight.double() * factors).to(weight.dtype))
        reader.node.update_arg(0, product)
