"""Lowerings of normalization, in float: means, differences and a reciprocal root."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from ...compiler.ir.ops import aten, bound_args
from ...compiler.ir.sizes import shape
from .table import Call, lowerings
from .values import Value, aligned, constant_value, held, natural, read, reshape
from .writer import Size, Tensor, Writer


@lowerings.op(aten.layer_norm.default)
def layer_norm(w: Writer, call: Call) -> Value:
    x = call.value("input")
    tensor = read(w, x)
    axes = list(range(x.rank - len(call.args["normalized_shape"]), x.rank))
    normal = _normalized(w, tensor, axes, call.args["eps"])
    return call.result(_affine(w, call, normal, [call.args["weight"], call.args["bias"]]))


def _groups(node: fx.Node) -> str | None:
    sizes = shape(node.args[0])[1:]
    if not all(isinstance(size, int) for size in sizes):
        return "an axis has a symbolic size"
    own = bound_args(node).get("use_input_stats", True)
    return None if own else "the statistics are not the input's own"


@lowerings.op(aten.group_norm.default, aten.instance_norm.default, check=_groups)
def group_norm(w: Writer, call: Call) -> Value:
    x = call.value("input")
    channels = int(x.sizes[1])
    groups = call.args.get("num_groups", channels)
    rest = 1
    for size in x.sizes[1:]:
        rest *= int(size)
    split = reshape(w, read(w, x), (x.sizes[0], groups, rest // groups))
    normal = reshape(w, _normalized(w, split, [2], call.args["eps"]), x.sizes)
    return call.result(_affine(w, call, normal, _channelwise(call, channels, x.rank)))


@lowerings.op(aten.batch_norm.default)
def batch_norm(w: Writer, call: Call) -> Value:
    mean, variance = call.stored("running_mean"), call.stored("running_var")
    assert mean is not None
    assert variance is not None
    weight, bias = call.stored("weight"), call.stored("bias")
    gain = torch.rsqrt(variance + call.args["eps"])
    gain = gain if weight is None else gain * weight
    shift = -mean * gain if bias is None else bias - mean * gain
    x = call.value("input")
    form, tensor = x.preferred(), read(w, x, x.preferred())
    sizes = [1, -1, *[1] * (x.rank - 2)]
    factor, term = (aligned(w, constant_value(c.reshape(sizes)), form) for c in (gain, shift))
    scaled = w.op("MUL", [tensor, factor], tensor.shape)
    return call.result(w.op("ADD", [scaled, term], tensor.shape, call.name), form)


def _channelwise(call: Call, channels: int, rank: int) -> list[Value | None]:
    sizes = [channels] + [1] * (rank - 2)
    stored = [call.stored(key) for key in ("weight", "bias")]
    return [None if value is None else constant_value(value.reshape(sizes)) for value in stored]


def _normalized(w: Writer, tensor: Tensor, axes: Sequence[int], eps: float) -> Tensor:
    sizes: list[Size] = [1 if axis in axes else size for axis, size in enumerate(tensor.shape)]
    places = w.ints(list(axes))
    mean = w.op("MEAN", [tensor, places], sizes, keepDims=True)
    centered = w.op("SUB", [tensor, mean], tensor.shape)
    square = w.op("MUL", [centered, centered], tensor.shape)
    variance = w.op("MEAN", [square, places], sizes, keepDims=True)
    root = w.op("RSQRT", [w.op("ADD", [variance, w.number(eps)], sizes)], sizes)
    return w.op("MUL", [centered, root], tensor.shape)


def _affine(w: Writer, call: Call, tensor: Tensor, parts: Sequence[Value | None]) -> Tensor:
    for code, part in zip(("MUL", "ADD"), parts, strict=True):
        if isinstance(part, Value):
            tensor = w.op(code, [tensor, aligned(w, part, natural(tensor.rank))], tensor.shape)
    return tensor


@lowerings.op(aten.linalg_vector_norm.default)
def vector_norm(w: Writer, call: Call) -> Value:
    """The root of the sum of squares, or the sum of absolute values."""
    x, order = call.value("self"), call.args["ord"]
    given = call.args["dim"]
    axes = [axis % x.rank for axis in ([given] if isinstance(given, int) else given or range(x.rank))]
    tensor = read(w, x)
    part = w.op("SQUARE" if order == 2 else "ABS", [tensor], tensor.shape)
    total = w.op("SUM", [part, w.ints(axes)], call.sizes, keepDims=call.args["keepdim"])
    return held(w.op("SQRT", [total], call.sizes) if order == 2 else total, call.sizes)
