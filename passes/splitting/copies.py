"""Copies of channels: where a layer's input channels come from, and how a copy of one is made.

A `Site` is a set of layers that read the same channels, in one of two forms:

    producer -> (elementwise, pool, spatial mean, zero pad, depthwise conv)* -> readers
        a copy of a channel is one more row of the producer's weight and bias, and of the depthwise convs between.
        The producer is a conv, transposed conv or linear without groups, and nothing else reads what lies between.
    value -> reader
        a copy of a channel is a slice, put behind the value's channels by a concat in front of the reader: for
        channels that a residual add, a graph input, a concat or a grouped conv gives, or that others read too.

The groups of a grouped reader stay of one size: each gets as many copies as every other, behind its own channels.
A reader with one input channel for each group (depthwise) has no site.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from ...compiler.ir.channelwise import ELEMENTWISE, WINDOWS
from ...compiler.ir.constants import add_constant, constant_nodes
from ...compiler.ir.ops import OPS, aten, bound_args
from ...compiler.ir.passes import PassContext
from ...compiler.quant.channel_stats import ChannelStat
from .._layers import Layer, parameters
from .._rewrite import insert_call, rank_of, shape_of


@dataclass(frozen=True, slots=True)
class Site:
    """Layers that read the same `channels` channels in `groups` groups.

    `producer` gives them, through the layers `between` (depthwise). Without a producer there is one reader.
    `scalable`: what lies between gives s times as much for a channel of the producer that is s > 0 times as large.
    """

    readers: tuple[fx.Node, ...]
    channels: int
    groups: int
    producer: fx.Node | None = None
    between: tuple[fx.Node, ...] = ()
    scalable: bool = False


def find_sites(gm: fx.GraphModule) -> tuple[list[Site], dict[fx.Node, str]]:
    """Sites in graph order of their first reader, and why a layer is in none."""
    sites: list[Site] = []
    reasons: dict[fx.Node, str] = {}
    placed: set[fx.Node] = set()
    for node in gm.graph.nodes:
        if node.target not in OPS or node in placed:
            continue
        match _site(gm, node):
            case str() as reason:
                reasons[node] = reason
            case site:
                placed.update(site.readers)
                sites.append(site)
    return sites, reasons


def _site(gm: fx.GraphModule, node: fx.Node) -> Site | str:
    layer = _reader(gm, node)
    if isinstance(layer, str):
        return layer
    producer = _producer(gm, node)
    if producer is not None:
        site = _downstream(gm, producer, layer)
        if site is not None:
            return site
    return Site((node,), _inputs(layer), layer.groups)


def _reader(gm: fx.GraphModule, node: fx.Node) -> Layer | str:
    """The layer, if its input channels can be split."""
    layer = parameters(gm, node)
    if isinstance(layer, str):
        return layer
    if channel_axis(gm, node, node.args[0]) is None:
        return f"{node.name} has no batch axis, or one of unknown place"
    if layer.groups > 1 and layer.groups == _inputs(layer):
        return "it is depthwise: a part of one channel would ask for parts of all of them"
    return layer


def _inputs(layer: Layer) -> int:
    grouped = layer.weight.shape[layer.info.in_axis]
    return int(grouped) * (layer.groups if layer.info.in_axis == 1 else 1)


def channel_axis(gm: fx.GraphModule, layer: fx.Node, value: object) -> int | None:
    """The channel axis of the layer's input or output `value`."""
    rank = rank_of(gm, value)
    if layer.target is aten.linear.default:
        return rank - 1 if rank is not None and rank > 1 else None
    return 1 if rank == OPS[layer.target].spatial + 2 else None  # type: ignore[index]


def _producer(gm: fx.GraphModule, reader: fx.Node) -> fx.Node | None:
    """The layer without groups that the reader's channels come from."""
    node = reader.args[0]
    while isinstance(node, fx.Node) and node.op == "call_function":
        if node.target not in OPS:
            if not _keeps_channels(gm, node, 1):
                return None
        elif bound_args(node).get("groups", 1) == 1:
            return None if isinstance(parameters(gm, node), str) else node
        elif _depthwise(gm, node) is None:
            return None
        node = node.args[0]
    return None


def _downstream(gm: fx.GraphModule, producer: fx.Node, layer: Layer) -> Site | None:
    """The site of all that reads `producer`; None where something other than a layer reads it, or reads it
    twice."""
    start = channel_axis(gm, producer, producer)
    readers: list[fx.Node] = []
    between: list[fx.Node] = []
    scalable = True
    waiting = [(user, producer, start) for user in producer.users]
    while waiting:
        node, source, axis = waiting.pop(0)
        if axis is None or node in readers or node in between:
            return None
        if node.target is aten.sym_size.int and node.args[1] != axis:
            continue
        if node.target in OPS:
            if channel_axis(gm, node, source) != axis or node.args[0] is not source:
                return None
            if _depthwise(gm, node) is None:
                readers.append(node)
                continue
            between.append(node)
        elif not _keeps_channels(gm, node, axis):
            return None
        else:
            scalable = scalable and _is_homogeneous(node)
        waiting += [(user, node, axis) for user in node.users]
    found = [_reader(gm, node) for node in readers]
    if layer.node not in readers or any(isinstance(r, str) or r.groups != layer.groups for r in found):
        return None
    return Site(tuple(readers), _inputs(layer), layer.groups, producer, tuple(between), scalable)


def _keeps_channels(gm: fx.GraphModule, node: fx.Node, axis: int) -> bool:
    """Whether a copy of a channel of the one tensor that `node` reads is a copy of that channel of its result."""
    if node.target in ELEMENTWISE:
        return True
    source = node.args[0] if node.args else None
    rank = rank_of(gm, source)
    if axis != 1 or rank is None or rank < 3:
        return False
    if (window := WINDOWS.get(node.target)) is not None:  # type: ignore[call-overload]
        return axis < rank - window.spatial
    args = bound_args(node)
    if node.target is aten.mean.dim:
        return all(dim % rank > 1 for dim in args["dim"] or range(rank))
    if node.target is aten.constant_pad_nd.default:
        return len(args["pad"]) <= 2 * (rank - 2)
    if node.target is aten.flatten.using_ints:
        sizes = shape_of(gm, source) or ()
        return args["start_dim"] == 1 and all(isinstance(size, int) and size == 1 for size in sizes[2:])
    return False


def _is_homogeneous(node: fx.Node) -> bool:
    """Whether a node that keeps channels gives s·y for s·x, s > 0."""
    if node.target in ELEMENTWISE:
        return ELEMENTWISE[node.target].homogeneous  # type: ignore[index]
    return node.target is not aten.constant_pad_nd.default or not bound_args(node)["value"]


def _depthwise(gm: fx.GraphModule, node: fx.Node) -> Layer | None:
    """The layer, if it is a conv that gives one channel for each one read."""
    layer = parameters(gm, node)
    if isinstance(layer, str) or layer.groups == 1 or layer.info.out_axis != 0:
        return None
    return layer if layer.weight.shape[:2] == (layer.groups, 1) else None


@dataclass(frozen=True, slots=True)
class Arrangement:
    """The channels after copying: `source` is the old channel of each new one, `part` counts those of one channel;
    both [new channels]. `groups` as in the site."""

    source: Tensor
    part: Tensor
    groups: int

    @classmethod
    def of(cls, copies: Tensor, groups: int) -> Arrangement:
        """`copies` [channels] says how often each channel is there, as many in each group as in every other."""
        source, part = [], []
        for start in range(0, len(copies), len(copies) // groups):
            own = range(start, start + len(copies) // groups)
            more = [(channel, k) for channel in own for k in range(1, int(copies[channel]))]
            source += [*own, *(channel for channel, _ in more)]
            part += [*(0 for _ in own), *(k for _, k in more)]
        return cls(torch.tensor(source), torch.tensor(part), groups)


def copy_channels(
    gm: fx.GraphModule, site: Site, order: Arrangement, ctx: PassContext, shares: Tensor | None = None
) -> None:
    """Give the readers' inputs the channels of `order`; to widen their weights is left to the caller.

    `shares` [new channels] are what part of the old channel each one is, at a site that is scalable.
    """
    if site.producer is None:
        _concatenate(gm, site.readers[0], order)
        return
    for node in (site.producer, *site.between):
        layer = parameters(gm, node)
        assert isinstance(layer, Layer)
        weight = layer.weight.index_select(layer.info.out_axis, order.source)
        bias = None if layer.bias is None else layer.bias.index_select(0, order.source)
        if shares is not None:
            shape = [-1 if axis == layer.info.out_axis else 1 for axis in range(weight.ndim)]
            weight = weight * shares.view(shape) if node is site.producer else weight
            bias = None if bias is None else bias * shares
        put_parameters(gm, layer, weight, bias, ctx, order.source, shares)
        if layer.groups > 1:
            assert layer.info.groups is not None
            node.update_arg(layer.info.groups, len(order.source))
        node.meta.pop("val", None)


def put_parameters(
    gm: fx.GraphModule,
    layer: Layer,
    weight: Tensor,
    bias: Tensor | None,
    ctx: PassContext,
    outputs: Tensor | None = None,
    shares: Tensor | None = None,
) -> None:
    """New constants, called `…_split`, in place of the layer's weight and bias (None: as it is).

    The statistics of the layer's output go with the weight; `outputs` is the old channel of each new one, `shares`
    what part of it.
    """
    node, info, old = layer.node, layer.info, layer.weight_name
    args = list(bound_args(node).values())
    args[info.weight] = add_constant(gm, _split_name(old), weight.contiguous(), node)
    if bias is not None:
        args[info.bias] = add_constant(gm, _split_name(str(args[info.bias].target)), bias, node)
    node.args = tuple(args)
    stats = None if ctx.channel_stats is None else ctx.channel_stats.by_weight.pop(old, None)
    if stats is not None and ctx.channel_stats is not None:
        if outputs is not None:
            part = torch.ones(len(outputs)) if shares is None else shares
            stats = ChannelStat(stats.mean[outputs] * part, stats.std[outputs] * part)
        ctx.channel_stats.by_weight[str(args[info.weight].target)] = stats


def was_split(gm: fx.GraphModule) -> bool:
    """Whether `put_parameters` was at work in this graph before."""
    return any(_SPLIT.search(str(node.target)) for node in constant_nodes(gm))


_SPLIT = re.compile(r"_split(_\d+)?$")


def _split_name(name: str) -> str:
    return _SPLIT.sub("", name) + "_split"


def _concatenate(gm: fx.GraphModule, reader: fx.Node, order: Arrangement) -> None:
    """A concat of slices of the reader's input, one for each run of neighbours."""
    value = reader.args[0]
    axis, shape = channel_axis(gm, reader, value), shape_of(gm, value)
    assert axis is not None
    assert shape is not None
    pieces = []
    for start, end in _runs(order.source.tolist()):
        whole = (start, end) == (0, shape[axis])
        sliced = (value, axis, start, end, 1)
        pieces.append(value if whole else insert_call(gm, reader, aten.slice.Tensor, sliced))
    reader.update_arg(0, insert_call(gm, reader, aten.cat.default, (pieces, axis)))


def _runs(channels: list[int]) -> list[tuple[int, int]]:
    """[0, 1, 2, 1, 2, 0] -> (0, 3), (1, 3), (0, 1)."""
    runs: list[tuple[int, int]] = []
    for channel in channels:
        if runs and runs[-1][1] == channel:
            runs[-1] = (runs[-1][0], channel + 1)
        else:
            runs.append((channel, channel + 1))
    return runs
