"""The factors found are those of least noise, within their limits, and of no channel that must keep its scale."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.constants import get_constant, set_constant
from fxedge.compiler.ir.nodes import describe
from fxedge.compiler.ir.passes import Skip, run_passes
from fxedge.compiler.quant.layer_options import LayerOptions
from fxedge.passes import Canonicalize
from fxedge.passes.channels.factor_search import STEPS, least_noise, without_extremes
from fxedge.passes.channels.maps import ChannelMap, channel_map
from fxedge.passes.channels.noise import NoiseModel, measure_noise
from fxedge.passes.channels.pinned_clamps import Groups
from support import Calls, inputs
from torch import Tensor, fx, nn
from torch.nn import functional as F

HIDDEN = 6
(X,) = inputs((16, 4))


def pair(scales: Tensor) -> tuple[fx.GraphModule, ChannelMap]:
    """Two linears with a ReLU between, the channels between them multiplied by `scales` and divided again."""
    torch.manual_seed(0)
    first, last = nn.Linear(4, HIDDEN), nn.Linear(HIDDEN, 3)
    with torch.no_grad():
        first.weight *= scales[:, None]
        first.bias *= scales
        last.weight /= scales
    gm = capture(Calls(lambda m, x: m.last(F.relu(m.first(x))), first=first, last=last).eval(), (X[:2],))
    run_passes(gm, [Canonicalize()])
    return gm, channel_map(gm)


def measured(gm: fx.GraphModule, channels: ChannelMap) -> NoiseModel:
    return measure_noise(gm, channels, [(X,)], lambda node: LayerOptions(weight_bits=8, per_tensor=True), seed=0)


def found(gm: fx.GraphModule, channels: ChannelMap) -> tuple[NoiseModel, Tensor]:
    model = measured(gm, channels)
    return model, least_noise(model, Groups.of(channels, []), lambda done: None)


def test_no_factor_near_the_ones_found_leaves_less_noise() -> None:
    scales = 2.0 ** torch.tensor([-5, 3, 0, 4, -2, 1])
    gm, channels = pair(scales)
    model, logs = found(gm, channels)
    least, before = float(model.smooth(logs)), float(model.smooth(torch.zeros_like(logs)))
    assert least < before / 10
    for index, step in itertools.product(torch.nonzero(channels.free).flatten().tolist(), (-0.2, 0.2)):
        moved = logs.clone()
        moved[index] += step
        assert float(model.smooth(moved)) > 0.999 * least


def test_noise_is_what_it_was_without_the_rescale() -> None:
    plain, scaled = (
        found(*pair(scales)) for scales in (torch.ones(HIDDEN), 2.0 ** torch.tensor([-5, 3, 0, 4, -2, 1]))
    )
    assert scaled[0].total(scaled[1]) == pytest.approx(plain[0].total(plain[1]), rel=0.01)


def test_fixed_channels_keep_their_scale() -> None:
    gm, channels = pair(2.0 ** torch.tensor([-5, 3, 0, 4, -2, 1]))
    _, logs = found(gm, channels)
    assert logs[channels.free].abs().min() > 0
    assert bool((logs[~channels.free] == 0).all())
    assert bool((~channels.free).any())  # the graph's own inputs and outputs


def test_factors_end_at_two_to_the_sixteenth() -> None:
    gm, channels = pair(2.0 ** torch.tensor([40, 0, 0, 0, 0, 0]))
    _, logs = found(gm, channels)
    assert float(logs.abs().max()) == pytest.approx(16 * math.log(2))


def test_progress_counts_evaluations_up_to_the_most_steps() -> None:
    gm, channels = pair(2.0 ** torch.tensor([-5, 3, 0, 4, -2, 1]))
    done: list[int] = []
    least_noise(measured(gm, channels), Groups.of(channels, []), done.append)
    assert done == [min(step, STEPS) for step in range(1, len(done) + 1)]
    assert len(done) > 1


def test_weights_at_the_ends_of_float32_are_left_alone() -> None:
    gm, channels = pair(torch.tensor([2.0**-95, 1, 1, 1, 1, 1]))
    left, skipped = without_extremes(gm, channels)
    hidden = channels.layers[0].out_ids
    assert set(left.reasons) - set(channels.reasons) == {int(hidden[0])}
    first, last = (layer.node for layer in channels.layers)
    reason = left.reasons[int(hidden[0])]
    assert reason.startswith(f"{describe(first)} has weights at the ends of float32 (")
    assert skipped[0] == Skip(first.name, f"1 channels keep their scale: {reason}")
    assert {skip.node for skip in skipped[1:]} == {last.name}  # which holds as many times more


def test_zero_weights_are_no_extremes() -> None:
    gm, channels = pair(torch.ones(HIDDEN))
    weight = get_constant(gm, "first.weight").clone()
    weight[0] = 0
    set_constant(gm, "first.weight", weight)
    assert without_extremes(gm, channels)[1] == []
