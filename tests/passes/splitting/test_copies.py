"""Where a layer's input channels come from, and that copies of them leave the function as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.passes import PassContext, run_passes
from fxedge.compiler.ir.shapes import annotate
from fxedge.passes import Canonicalize
from fxedge.passes._layers import Layer, parameters
from fxedge.passes.splitting.copies import (
    Arrangement,
    Site,
    copy_channels,
    find_sites,
    put_parameters,
    was_split,
)
from support import Calls, inputs
from torch import Tensor, fx, nn
from torch.nn import functional as F

CHANNELS = 4
X = inputs((2, 3, 6, 6))


def captured(function: Callable[..., object]) -> fx.GraphModule:
    torch.manual_seed(0)
    model = Calls(
        function,
        first=nn.Conv2d(3, CHANNELS, 3),
        wide=nn.Conv2d(CHANNELS, CHANNELS, 3, groups=CHANNELS),
        grouped=nn.Conv2d(CHANNELS, 6, 1, groups=2),
        last=nn.Conv2d(CHANNELS, 5, 1),
        other=nn.Conv2d(CHANNELS, 2, 1),
        head=nn.Linear(CHANNELS, 5),
    )
    gm = capture(model.eval(), X)
    run_passes(gm, [Canonicalize()])
    annotate(gm)
    return gm


def weights_of_readers(gm: fx.GraphModule, site: Site) -> list[str]:
    found = [parameters(gm, node) for node in site.readers]
    return [layer.weight_name for layer in found if isinstance(layer, Layer)]


def copied(gm: fx.GraphModule, site: Site, copies: Tensor, shares: bool) -> fx.GraphModule:
    """The graph with `copies` of the site's channels: as equal shares of the values, or of the weights."""
    order, ctx = Arrangement.of(copies, site.groups), PassContext()
    for node in site.readers:
        layer = parameters(gm, node)
        assert isinstance(layer, Layer)
        by_input = layer.by_input()
        places = order.source.view(site.groups, -1)
        columns = [by_input[g][:, places[g] - g * by_input.shape[2]] for g in range(site.groups)]
        wide = torch.stack(columns)
        if not shares:
            part = 1 / copies[order.source].view(site.groups, 1, -1, *[1] * (wide.ndim - 3))
            wide = wide * part
        put_parameters(gm, layer, wide.reshape(-1, *wide.shape[2:]).float(), None, ctx)
    copy_channels(gm, site, order, ctx, 1 / copies[order.source] if shares else None)
    gm.graph.lint()
    gm.recompile()
    return gm


FROM_A_PRODUCER = {
    "relu": lambda m, x: m.last(F.relu(m.first(x))),
    "depthwise": lambda m, x: m.last(F.relu(m.wide(F.pad(F.relu(m.first(x)), (1, 1, 1, 1))))),
    "pooled": lambda m, x: m.head(F.max_pool2d(m.first(x), 2).mean((2, 3))),
    "two readers": lambda m, x: (lambda y: (m.last(y), m.other(y)))(F.relu(m.first(x))),
    "grouped": lambda m, x: m.grouped(F.relu(m.first(x))),
}


@pytest.mark.parametrize("shares", [False, True], ids=["parts", "shares"])
@pytest.mark.parametrize("name", FROM_A_PRODUCER)
def test_copies_are_rows_of_the_producer(name: str, shares: bool) -> None:
    gm = captured(FROM_A_PRODUCER[name])
    wanted = gm(*X)
    site = next(site for site in find_sites(gm)[0] if site.producer is not None)
    assert site.scalable
    assert not was_split(gm)
    copied(gm, site, torch.tensor([1, 3, 2, 2]) if site.groups == 2 else torch.tensor([1, 3, 1, 2]), shares)
    assert was_split(gm)
    torch.testing.assert_close(gm(*X), wanted)
    assert not any(node.target is torch.ops.aten.cat.default for node in gm.graph.nodes)


FROM_A_CONCAT = {
    "residual": lambda m, x: (lambda y: m.last(y + m.wide(F.pad(y, (1, 1, 1, 1)))))(F.relu(m.first(x))),
    "also an output": lambda m, x: (lambda y: (m.last(y), y))(F.relu(m.first(x))),
    "grouped": lambda m, x: (lambda y: (m.grouped(y), y))(F.relu(m.first(x))),
}


@pytest.mark.parametrize("name", FROM_A_CONCAT)
def test_copies_of_what_others_read_are_slices(name: str) -> None:
    gm = captured(FROM_A_CONCAT[name])
    wanted = gm(*X)
    site = next(site for site in find_sites(gm)[0] if site.channels == CHANNELS)
    assert site.producer is None
    assert len(site.readers) == 1
    copied(gm, site, torch.tensor([2, 1, 1, 2]), shares=False)
    torch.testing.assert_close(gm(*X), wanted)
    assert sum(node.target is torch.ops.aten.cat.default for node in gm.graph.nodes) == 1


def test_every_layer_is_in_a_site_or_has_a_reason() -> None:
    gm = captured(FROM_A_PRODUCER["depthwise"])
    sites, reasons = find_sites(gm)
    assert [weights_of_readers(gm, site) for site in sites] == [["first.weight"], ["last.weight"]]
    assert [(site.channels, len(site.between)) for site in sites] == [(3, 0), (CHANNELS, 1)]
    assert list(reasons.values()) == ["it is depthwise: a part of one channel would ask for parts of all of them"]


def test_an_offset_between_takes_no_shares() -> None:
    gm = captured(lambda m, x: m.last(torch.sigmoid(m.first(x))))
    site = next(site for site in find_sites(gm)[0] if site.producer is not None)
    assert not site.scalable


def test_new_channels_stand_behind_those_of_their_group() -> None:
    order = Arrangement.of(torch.tensor([1, 3, 2, 2]), 2)
    assert order.source.tolist() == [0, 1, 1, 1, 2, 3, 2, 3]
    assert order.part.tolist() == [0, 0, 1, 2, 0, 0, 1, 1]
    whole = Arrangement.of(torch.tensor([1, 3, 2, 2]), 1)
    assert whole.source.tolist() == [0, 1, 2, 3, 1, 1, 2, 3]
    assert whole.part.tolist() == [0, 0, 0, 0, 1, 2, 1, 1]
