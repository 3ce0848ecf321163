"""Which channels of a clamp may be scaled apart, and how far."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from fxedge.passes import Canonicalize
from fxedge.passes.channels.maps import ChannelMap, channel_map
from fxedge.passes.channels.pinned_clamps import (
    Groups,
    PinnedClamp,
    Reach,
    drop_unreached,
    pin,
    reaches_of_samples,
)
from support import Calls, apply, inputs
from torch import Tensor, fx, nn

X = inputs((2, 3, 4, 4))


def clamped() -> tuple[fx.GraphModule, ChannelMap]:
    model = Calls(lambda m, x: m.last(F.relu6(m.first(x))), first=nn.Conv2d(3, 4, 1), last=nn.Conv2d(4, 2, 1))
    gm, _ = apply(model.eval(), X, Canonicalize())
    return gm, channel_map(gm)


def pinned(channels: ChannelMap, high: Tensor) -> PinnedClamp:
    (clamp,) = channels.clamps
    (found,) = pin(channels, {clamp.node: Reach(torch.zeros(4), high, "told")})
    return found


def test_who_stays_away_is_scaled_apart_within_the_bound() -> None:
    _, channels = clamped()
    found = pinned(channels, torch.tensor([7.0, 3.0, 6.0, 1.5]))
    assert found.free_channels == 2
    assert found.floors[[0, 2]].isnan().all()
    assert found.floors[[1, 3]].exp().tolist() == pytest.approx([0.5, 0.25])
    groups = Groups.of(channels, [found])
    ids = found.clamp.ids.flatten()
    assert groups.index[ids[0]] == groups.index[ids[2]]
    assert len(set(groups.index[ids].tolist())) == 3
    logs = torch.zeros(channels.count, dtype=torch.float64)
    logs[ids] = torch.tensor([2.0, 0.01, 2.0, 1.0], dtype=torch.float64).log()
    assert groups.within(logs)[ids].exp().tolist() == pytest.approx([2, 1, 2, 1])


def test_a_clamp_that_nothing_reaches_becomes_relu() -> None:
    gm, channels = clamped()
    found = pinned(channels, torch.full((4,), 5.9))
    assert (found.common, found.floors.tolist()) == (None, [-math.inf] * 4)
    assert drop_unreached(gm, [found]) == 1
    assert [node.target for node in gm.graph.nodes if "relu" in node.name] == [torch.ops.aten.relu.default]


def test_without_evidence_all_are_taken_to_reach_it() -> None:
    _, channels = clamped()
    (found,) = pin(channels, {})
    assert found.floors.isnan().all()
    assert found.evidence == "nothing is known of them"


def test_samples_show_the_reach_and_a_quarter_more() -> None:
    gm, channels = clamped()
    (clamp,) = channels.clamps
    reach = reaches_of_samples(gm, channels, [X, X])[clamp.node]
    with torch.no_grad():
        values = F.conv2d(X[0], gm.first.weight, gm.first.bias)
    torch.testing.assert_close(reach.high, values.amax((0, 2, 3)) * 1.25)
    assert reach.evidence == "4 samples and a quarter more"
