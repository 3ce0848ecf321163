"""Give channels scales of their own around activations through which no factor passes: SiLU, GELU, hardswish.

    layer -> silu -> readers   becomes   layer · g -> mul 1/g -> silu -> mul h -> readers / h

Cross-layer equalization (`equalize_layers.py`) ends at such an activation, and what it gives is as uneven as
training left it: in YOLOX-Nano channels of ±0.3 stand beside channels of 70, on one scale of 255 steps. Two
products with a constant for each channel take up any factors before and behind (gains, see `ir/gains.py`). They
run in float, as does the activation between them, so the integers on either side have, in effect, a scale for
each channel, while the layers' kernels see one.

The factors of all channels of the graph minimize the noise expected at its outputs, as in `equalize_layers`. A
gain costs a float multiplication for each element, and the activation its integer kernel, so the pass does
nothing where the noise is low enough as it is, and leaves alone the activations that are worth little.
With gains at every activation MobileNetV3-Small gained 0.6 to 1.8 points of top-1 and lost two fifths of its speed
in onnxruntime: it stays as it is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, fx

from ..compiler.ir.constants import add_constant, constant
from ..compiler.ir.gains import breaks_scale, gain_name
from ..compiler.ir.light import is_light
from ..compiler.ir.nodes import describe, inherit, placeholders
from ..compiler.ir.ops import OPS, aten
from ..compiler.ir.passes import Numerics, PassContext, PassResult, Skip
from ..compiler.ir.progress import Advance
from ..compiler.ir.stages import Stage
from ..compiler.quant.layer_options import LayerOptions, options_over
from ..compiler.quant.walk import first_samples
from ._rewrite import insert_call, number, replace, shape_of, tensor_of
from .channels.factor_search import STEPS, least_noise, without_extremes
from .channels.maps import ChannelMap, GainChannels, channel_map
from .channels.noise import NoiseModel, measure_noise
from .channels.pinned_clamps import Groups, pin
from .channels.rescale import rescale

# What part of the noise an activation must save, over what part of all activations' elements it has.
_LEAST_WORTH = 0.5
_NO_SAMPLES = "without samples nothing is known of what channels hold"


@dataclass(frozen=True, slots=True)
class EqualizeActivations:
    """Gains around activations, where the expected noise of int8 is above the signal less `goal` dB.

    `per_tensor_weights`, `weight_bits` and `layers` are as in `EqualizeLayers`; `samples` are read from
    `ctx.batches`, else the example inputs. `changes` counts gains: one or two for each activation.
    """

    name: ClassVar[str] = "equalize-activations"
    requires: ClassVar[Stage] = Stage.FLOAT
    ensures: ClassVar[Stage] = Stage.FLOAT
    numerics: ClassVar[Numerics] = "close"

    per_tensor_weights: bool = False
    weight_bits: int = 8
    layers: Mapping[str, LayerOptions] = field(default_factory=dict)
    goal: float = 3.0
    samples: int = 8

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> PassResult:
        found = [node for node in gm.graph.nodes if _reads_layer(gm, node)]
        batches = list(first_samples(gm, ctx.sample_batches(), self.samples)) if found else []
        if not batches:
            return PassResult(0, tuple(Skip(node.name, _NO_SAMPLES) for node in found))
        places = [_open(gm, node) for node in found]
        channels, skipped = without_extremes(gm, channel_map(gm))
        model = measure_noise(gm, channels, batches, self._options(gm, places), ctx.seed)
        before = model.total(torch.zeros(channels.count, dtype=torch.float64))
        names = ", ".join(node.name for node in placeholders(gm))
        if (reason := self._why_not(model, channels, before)) is not None:
            _close(gm, [gain for place in places for gain in place.gains])
            return PassResult(0, (*skipped, Skip(names, reason)))
        with ctx.progress.track("equalize activations", 2 * STEPS) as advance:
            if self.per_tensor_weights:  # the weights of a layer that is light, but not float, count too
                model = measure_noise(gm, channels, batches, self._options(gm, ()), ctx.seed)
            channels, left_alone = _without_idle(gm, model, channels, places, advance)
            if self.per_tensor_weights:
                kept = _without(places, left_alone)
                model = measure_noise(gm, channels, batches, self._options(gm, kept), ctx.seed)
            logs = _search(model, channels, lambda step: advance(STEPS + step))
        if len(left_alone) < len(places):
            rescale(gm, channels, logs.exp(), ctx.channel_stats)
        idle = [gain for place in places for gain in place.gains if _is_one(gm, gain)]
        _close(gm, idle)
        said = f"{_decibel(model, model.total(logs))}, {_decibel(model, before)} without gains"
        notes = (Skip(names, f"int8 is expected to leave the outputs {said}"),)
        changes = 2 * len(places) - len(idle)
        return PassResult(changes, (*skipped, *left_alone), notes=notes if changes else ())

    def _options(self, gm: fx.GraphModule, places: Sequence[_Place]) -> Callable[[fx.Node], LayerOptions]:
        """Those of each layer; a light one between the activations of `places` will be float as they are."""
        usual = LayerOptions(weight_bits=self.weight_bits, per_tensor=self.per_tensor_weights)
        chosen = options_over(gm, usual, self.layers)
        light = {node: dataclasses.replace(chosen(node), quantize=False) for node in _between(places)}
        return lambda node: light.get(node) or chosen(node)

    def _why_not(self, model: NoiseModel, channels: ChannelMap, before: float) -> str | None:
        if not model.signal or not bool(channels.free.any()):
            return "no factor reaches the outputs"
        if not 0 < before < math.inf:
            return f"the noise expected of quantization is {before:g}"
        if before <= 10 ** (-self.goal / 10) * model.signal:
            return f"int8 is expected to leave the outputs {_decibel(model, before)}: no activation needs a gain"
        return None


@dataclass(frozen=True, slots=True)
class _Place:
    """An activation and the gains around it."""

    activation: fx.Node
    before: fx.Node
    after: fx.Node

    @property
    def gains(self) -> tuple[fx.Node, fx.Node]:
        return self.before, self.after


def _without(places: Sequence[_Place], skipped: Iterable[Skip]) -> list[_Place]:
    names = {skip.node for skip in skipped}
    return [place for place in places if place.activation.name not in names]


def _between(places: Sequence[_Place]) -> set[fx.Node]:
    """The light layers that read and are read by gains of `places` alone."""
    before = {place.before for place in places}
    readers = (user for place in places for user in place.after.users)
    return {user for user in readers if is_light(user) and before.issuperset(user.users)}


def _decibel(model: NoiseModel, noise: float) -> str:
    return f"{10 * math.log10(model.signal / max(noise, 1e-300)):.1f} dB of signal over noise"


def _search(model: NoiseModel, channels: ChannelMap, advance: Advance) -> Tensor:
    return least_noise(model, Groups.of(channels, pin(channels, {})), advance)


def _reads_layer(gm: fx.GraphModule, node: fx.Node) -> bool:
    source = node.args[0] if breaks_scale(node) else None
    return isinstance(source, fx.Node) and source.target in OPS and _width(gm, source) is not None


def _width(gm: fx.GraphModule, layer: fx.Node) -> tuple[int, int] | None:
    """Channels of a layer's result, if there are several, and the axes behind them."""
    info = OPS[layer.target]  # type: ignore[index]
    shape = shape_of(gm, layer)
    channels = None if shape is None else shape[len(shape) - 1 - info.spatial]
    return (channels, info.spatial) if isinstance(channels, int) and channels > 1 else None


def _open(gm: fx.GraphModule, node: fx.Node) -> _Place:
    """Gains of 1 on both sides of an activation that reads a layer."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    width, like = _width(gm, source), tensor_of(gm, source)
    assert width is not None
    assert like is not None
    ones, meta = torch.ones(width[0], *(1,) * width[1], dtype=like.dtype), source.meta.get("val")
    scale = add_constant(gm, gain_name(node), ones, node)
    before = insert_call(gm, node, aten.mul.Tensor, (source, scale), value=meta)
    node.update_arg(0, before)
    scale = add_constant(gm, gain_name(node), ones.clone(), node.next)
    after = inherit(insert_call(gm, scale.next, aten.mul.Tensor, (node, scale), value=meta), node)
    node.replace_all_uses_with(after, delete_user_cb=lambda user: user is not after)
    return _Place(node, before, after)


def _close(gm: fx.GraphModule, gains: Iterable[fx.Node]) -> None:
    for gain in gains:
        replace(gm, gain, gain.args[0])  # type: ignore[arg-type]


def _is_one(gm: fx.GraphModule, gain: fx.Node) -> bool:
    value = constant(gm, gain.args[1])
    return value is not None and bool((value == 1).all())


def _without_idle(
    gm: fx.GraphModule, model: NoiseModel, channels: ChannelMap, places: Sequence[_Place], advance: Advance
) -> tuple[ChannelMap, list[Skip]]:
    """`channels` with those fixed around each activation that saves less than its price, the worst ones first."""
    logs = _search(model, channels, advance)
    gains, reasons = {gain.node: gain for gain in channels.gains}, dict(channels.reasons)
    spots = [_Spot.of(gm, model, place, gains) for place in places]
    noise, everything = model.total(logs), sum(spot.price for spot in spots)
    saved, skipped = {spot: spot.saved(logs) for spot in spots}, []
    while saved:
        worst = min(saved, key=lambda spot: saved[spot] / spot.price)
        if saved[worst] / noise >= _LEAST_WORTH * worst.price / everything:
            break
        noise += saved.pop(worst)
        logs, ids = _fixed(logs, worst.ids), worst.ids.tolist()
        saved |= {spot: spot.saved(logs) for spot in saved if not spot.depends_on.isdisjoint(ids)}
        reason = f"{describe(worst.place.activation)} saves little noise for what gains cost"
        skipped.append(Skip(worst.place.activation.name, reason))
        reasons |= dict.fromkeys(ids, reason)
    return dataclasses.replace(channels, reasons=reasons), skipped


@dataclass(frozen=True, slots=True, eq=False)
class _Spot:
    """A place, the classes `ids` of its own, the part of the noise that they change, all classes that this part
    depends on, and the elements of one sample (symbolic sizes at those of the capture)."""

    place: _Place
    ids: Tensor
    near: NoiseModel
    depends_on: frozenset[int]
    price: float

    @classmethod
    def of(
        cls, gm: fx.GraphModule, model: NoiseModel, place: _Place, gains: Mapping[fx.Node, GainChannels]
    ) -> _Spot:
        ids = torch.cat([gains[place.before].in_ids, gains[place.after].out_ids]).unique()
        meta, near = tensor_of(gm, place.activation), model.touching(ids)
        assert meta is not None
        price = float(math.prod(number(size) or 1 for size in meta.shape[1:]))
        return cls(place, ids, near, frozenset(near.classes().tolist()), price)

    def saved(self, logs: Tensor) -> float:
        """The noise that there would be more with the factors of these classes at 1."""
        return self.near.total(_fixed(logs, self.ids)) - self.near.total(logs)


def _fixed(logs: Tensor, ids: Tensor) -> Tensor:
    fixed = logs.clone()
    fixed[ids] = 0.0
    return fixed
