"""Lowerings of ops that gather elements by index, make them, or move them between channels and space."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ...compiler.ir.constants import constant
from ...compiler.ir.ops import aten, bound_args
from ...compiler.ir.sizes import dtype, shape
from .emit_views import size_tensor
from .table import Call, lowerings
from .values import Value, channels_last, constant_value, in_form, read
from .writer import DTYPES, Writer


def _spatial(node: fx.Node) -> str | None:
    sizes = shape(node.args[0])
    static = len(sizes) == 4 and all(isinstance(size, int) for size in sizes[1:])
    return None if static else "the input is not a batch of images of one size"


@lowerings.op(aten.pixel_shuffle.default, check=_spatial)
def pixel_shuffle(w: Writer, call: Call) -> Value:
    """torch counts channels before phases, TFLite's DepthToSpace behind: an order of channels, then that."""
    x, factor = call.value("self"), call.args["upscale_factor"]
    tensor = read(w, x, channels_last(4))
    count, places = int(x.sizes[1]), factor * factor
    order = torch.arange(count).reshape(count // places, places).t().flatten().to(torch.int32)
    if count > places:
        operands = [tensor, w.constant(order)]
        tensor = w.op("GATHER", operands, tensor.shape, qparams=tensor.qparams, axis=3)
    form = channels_last(4)
    wanted = in_form(call.sizes, form)
    made = w.op("DEPTH_TO_SPACE", [tensor], wanted, call.name, qparams=tensor.qparams, blockSize=factor)
    return call.result(made, form)


@lowerings.op(aten.pixel_unshuffle.default, check=_spatial)
def pixel_unshuffle(w: Writer, call: Call) -> Value:
    """SpaceToDepth puts phases before channels, torch channels before phases: then an order of channels."""
    x, factor = call.value("self"), call.args["downscale_factor"]
    form = channels_last(4)
    sizes = in_form(call.sizes, form)
    tensor = read(w, x, form)
    made = w.op("SPACE_TO_DEPTH", [tensor], sizes, qparams=tensor.qparams, blockSize=factor)
    channels, places = int(x.sizes[1]), factor * factor
    if channels == 1:
        return call.result(made, form)
    order = torch.arange(channels * places).reshape(places, channels).t().flatten().to(torch.int32)
    operands = [made, w.constant(order)]
    return call.result(w.op("GATHER", operands, sizes, call.name, qparams=tensor.qparams, axis=3), form)


def _one_index(node: fx.Node) -> str | None:
    given = [index for index in bound_args(node)["indices"] if index is not None]
    if len(given) != 1:
        return "more than one axis is indexed at once"
    return None if dtype(given[0]) in (torch.int64, torch.int32) else "the index is a mask"


@lowerings.op(aten.index.Tensor, check=_one_index)
def index(w: Writer, call: Call) -> Value:
    axis, chosen = next((axis, value) for axis, value in enumerate(call.args["indices"]) if value is not None)
    return _gathered(w, call, call.value("self"), chosen, axis)


@lowerings.op(aten.embedding.default)
def embedding(w: Writer, call: Call) -> Value:
    return _gathered(w, call, call.value("weight"), call.value("indices"), 0)


@lowerings.op(aten.index_select.default)
def index_select(w: Writer, call: Call) -> Value:
    x = call.value("self")
    return _gathered(w, call, x, call.value("index"), call.args["dim"] % x.rank)


def _gathered(w: Writer, call: Call, x: Value, chosen: Value, axis: int) -> Value:
    """Negative positions count from the end; only constants are looked at for them."""
    if chosen.stored is not None:
        size = x.sizes[axis]
        stored = chosen.stored.to(torch.int32)
        if isinstance(size, int):
            stored = torch.where(stored < 0, stored + size, stored)
        chosen = constant_value(stored, chosen.name)
    operands = [read(w, x), read(w, chosen)]
    made = w.op("GATHER", operands, call.sizes, call.name, dtype=operands[0].dtype, axis=axis)
    return call.result(made)


def _computed(node: fx.Node) -> str | None:
    static = all(isinstance(size, int) for size in shape(node))
    known = all(not isinstance(value, fx.Node) for value in node.args)
    kind = None if dtype(node) in DTYPES else f"{dtype(node)} has no kernels in TFLite"
    return kind if static and known else "a bound is symbolic"


@lowerings.op(
    aten.arange.default, aten.arange.start, aten.arange.start_step, aten.scalar_tensor.default, check=_computed
)
def folded(w: Writer, call: Call) -> Value:
    """An op without tensor inputs, computed now."""
    kwargs = {key: value for key, value in call.node.kwargs.items() if key == "dtype"}
    return constant_value(call.node.target(*call.node.args, **kwargs), call.name)  # type: ignore[operator]


_FILLS: dict[Any, float] = {
    aten.zeros.default: 0,
    aten.ones.default: 1,
    aten.new_zeros.default: 0,
    aten.new_ones.default: 1,
    aten.zeros_like.default: 0,
    aten.ones_like.default: 1,
}


def _fillable(node: fx.Node) -> str | None:
    return None if dtype(node) in DTYPES else f"{dtype(node)} has no kernels in TFLite"


@lowerings.op(*_FILLS, aten.full.default, aten.new_full.default, aten.full_like.default, check=_fillable)
def fill(w: Writer, call: Call) -> Value:
    fixed = _FILLS.get(call.node.target)
    value = call.args["fill_value"] if fixed is None else fixed
    kind = dtype(call.node)
    if all(isinstance(size, int) for size in call.sizes):
        return constant_value(torch.full([int(size) for size in call.sizes], value, dtype=kind), call.name)
    if "size" in call.args:
        parts = [size_tensor(w, size) for size in call.args["size"]]
        target = w.op("CONCATENATION", parts, (len(parts),), axis=0)
    else:
        x = call.value("self")
        target = w.op("SHAPE", [read(w, x)], (x.rank,), dtype=torch.int32, outType=2)
    made = w.op("FILL", [target, w.number(value, kind)], call.sizes, call.name, dtype=kind)
    return call.result(made)


def _constant_input(node: fx.Node) -> str | None:
    gm = node.graph.owning_module
    known = gm is not None and constant(gm, node.args[0]) is not None
    return None if known else "its input is computed, not constant"


@lowerings.op(aten.tril.default, aten.triu.default, check=_constant_input)
def triangle(w: Writer, call: Call) -> Value:
    stored = call.stored("self")
    return constant_value(call.node.target(stored, call.args["diagonal"]), call.name)  # type: ignore[operator]
