"""Scale channels between layers so that quantizing them costs least: cross-layer equalization, over whole regions.

A factor s on a channel divides the producer's weights and bias and multiplies the reader's weights; between them
everything scales along (`channels/maps.py`). Nagel et al., *Data-Free Quantization Through Weight Equalization and
Bias Correction* (2019), §4.1, make the weight ranges of neighbours equal, pair by pair. Here the factors of all
channels minimize one number, the noise at the graph's outputs to be expected from quantized weights and
activations (`channels/noise.py`). It is convex in their logarithms: pairs, depthwise triples and regions of
residual sums and concats need no order, nothing oscillates, and a second run finds nothing to do.

Clamps follow in one of two forms:

    exact    hardtanh(x, 0, 6) becomes clamp.Tensor(relu(x), None, bounds), a bound for each channel
    pinned   one bound for all channels: those that reach it are scaled together (`channels/pinned_clamps.py`)

Recipes take the pinned form, for every target: on each layer of MobileNetV2 a bound for each channel adds a third
to the time of an int8 artifact in onnxruntime and more than half in torch, and `CorrectBias` loses more by it than
it gains. (That of TensorFlow, weights per tensor, onnx, SQNR on 120 images, exact and pinned: to nearest 12.8 and
10.2 dB, by GPTQ 17.8 and 16.3 dB, with biases corrected after that 8.9 and 17.0 dB.)

With the exact form the function stays the same up to float32 rounding, with factors that are powers of two bit for
bit. The pinned form relies on evidence that a channel never reaches its bound; the notes name it for each clamp.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, fx

from ..compiler.ir.nodes import describe, placeholders
from ..compiler.ir.passes import Numerics, PassContext, PassResult, Skip
from ..compiler.ir.stages import Stage
from ..compiler.quant.layer_options import LayerOptions, options_over
from ..compiler.quant.walk import first_samples
from .channels.factor_search import STEPS, least_noise, without_extremes
from .channels.maps import ChannelMap, LayerChannels, channel_map
from .channels.noise import measure_noise
from .channels.pinned_clamps import (
    Groups,
    PinnedClamp,
    Reach,
    drop_unreached,
    pin,
    reaches_of_norms,
    reaches_of_samples,
    with_pinned,
)
from .channels.rescale import rescale

_EVIDENCE = 64  # samples that show which channels reach a bound


@dataclass(frozen=True, slots=True)
class EqualizeLayers:
    """Channel factors that minimize the noise of quantization.

    `per_tensor_weights`: whether each weight has one scale (then its rows compete too), or one for each row;
    `weight_bits` it will have; `layers` the exceptions, by glob, as in `plan_quantization`.
    `powers_of_two` rounds the factors: no output bit changes, at a somewhat larger noise.
    `samples`: how many are read (`ctx.batches`, else the example inputs). The graph is left as it is unless the
    noise expected falls below the part `worth` of what it was.
    """

    name: ClassVar[str] = "equalize-layers"
    requires: ClassVar[Stage] = Stage.FLOAT
    ensures: ClassVar[Stage] = Stage.FLOAT
    numerics: ClassVar[Numerics] = "close"

    per_tensor_weights: bool = True
    weight_bits: int = 8
    layers: Mapping[str, LayerOptions] = field(default_factory=dict)
    clamp: Literal["exact", "pinned"] = "exact"
    powers_of_two: bool = False
    samples: int = 8
    worth: float = 0.95

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> PassResult:
        names = ", ".join(node.name for node in placeholders(gm))
        batches = list(first_samples(gm, ctx.sample_batches(), self.samples))
        if not batches:
            return PassResult(0, (Skip(names, "without samples nothing is known of what channels hold"),))
        channels, skipped = without_extremes(gm, channel_map(gm))
        pinned = pin(channels, _reaches(gm, channels, ctx)) if self.clamp == "pinned" else []
        groups = Groups.of(channels, pinned)
        skipped += [skip for layer in channels.layers if (skip := _fixed(layer, channels)) is not None]
        if bool(groups.fixed.all()):
            return PassResult(0, tuple(skipped))
        usual = LayerOptions(weight_bits=self.weight_bits, per_tensor=self.per_tensor_weights)
        model = measure_noise(gm, channels, batches, options_over(gm, usual, self.layers), ctx.seed)
        before = model.total(torch.zeros(channels.count, dtype=torch.float64))
        if not 0 < before < math.inf:
            return PassResult(0, (*skipped, Skip(names, f"the noise expected of quantization is {before:g}")))
        with ctx.progress.track("equalize layers", STEPS) as advance:
            logs = least_noise(model, groups, advance)
        logs = _rounded(logs, groups) if self.powers_of_two else logs
        after = model.total(logs)
        if not after < self.worth * before:
            reason = f"scaling would change the noise expected of quantization by {after / before - 1:.1%}"
            return PassResult(0, (*skipped, Skip(names, reason)))
        gain = Skip(names, f"the noise expected of quantization falls to {after / before:.3g} of what it was")
        notes = (gain, *_clamp_notes(channels, pinned, logs))
        changes = rescale(gm, with_pinned(channels, pinned), _factors(logs, self.powers_of_two), ctx.channel_stats)
        changes += drop_unreached(gm, pinned)
        return PassResult(changes, tuple(skipped), notes=notes)


def _reaches(gm: fx.GraphModule, channels: ChannelMap, ctx: PassContext) -> dict[fx.Node, Reach]:
    if ctx.batches is not None:
        samples = itertools.chain(
            first_samples(gm, ctx.sample_batches(), _EVIDENCE), [ctx.example_inputs] if ctx.example_inputs else []
        )
        return reaches_of_samples(gm, channels, samples)
    return {} if ctx.channel_stats is None else reaches_of_norms(channels, ctx.channel_stats)


def _fixed(layer: LayerChannels, channels: ChannelMap) -> Skip | None:
    """Why a layer's output channels are not scaled, if none of them is."""
    reasons = [channels.reasons.get(index) for index in layer.out_ids.tolist()]
    if not reasons or None in reasons:
        return None
    return Skip(layer.node.name, f"the outputs of {describe(layer.node)} keep their scale: {reasons[0]}")


def _rounded(logs: Tensor, groups: Groups) -> Tensor:
    """Logarithms of the powers of two next to these factors; above where a floor demands it."""
    whole = (logs / math.log(2)).round() * math.log(2)
    floors = whole[groups.common] + groups.floor
    raised = ((floors / math.log(2)).ceil() * math.log(2)).nan_to_num(neginf=-math.inf)
    return torch.maximum(whole, raised)


def _factors(logs: Tensor, powers_of_two: bool) -> Tensor:
    """exp(logs), free of its rounding where they are logarithms of powers of two."""
    return torch.exp2((logs / math.log(2)).round()) if powers_of_two else logs.exp()


def _clamp_notes(channels: ChannelMap, pinned: Sequence[PinnedClamp], logs: Tensor) -> tuple[Skip, ...]:
    if pinned:
        return tuple(item.note() for item in pinned if item.free_channels)
    notes = []
    for clamp in channels.clamps:
        factors = logs[clamp.ids].exp()
        if bool((factors != factors.flatten()[0]).any()):
            reason = f"{describe(clamp.node)} has a bound for each channel"
            notes.append(Skip(clamp.node.name, f"{reason}, divided by {factors.min():.3g} to {factors.max():.3g}"))
    return tuple(notes)
