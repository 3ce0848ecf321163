"""Lowerings of three-dimensional convolutions and pools, in float: TFLite has no integer kernels for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ...compiler.ir.ops import aten, bound_args
from ...compiler.ir.sizes import shape
from ...compiler.quant.kernels import pool_sizes
from .emit_pools import pooled_image, window_factors
from .emit_products import VALID, convolution_reason, spread, weights_of
from .table import Call, lowerings
from .values import Value, channels_last, constant_value, in_form, read, reshape
from .writer import Size, Tensor, Writer


@lowerings.op(aten.conv3d.default, aten.conv3d.padding, check=convolution_reason)
def conv3d(w: Writer, call: Call) -> Value:
    """Groups are convolutions of their own; the padding is a Pad."""
    found, groups = weights_of(call), call.args["groups"]
    dilation, stride = spread(call.args["dilation"], 3), spread(call.args["stride"], 3)
    form, out = channels_last(5), [int(size) for size in call.sizes[2:]]
    reach = [(k - 1) * d + 1 for k, d in zip(found.weight.shape[2:], dilation, strict=True)]
    lead = _lead(call.args["padding"], reach)
    source = _padded(w, read(w, call.value("input"), form), lead, out, stride, reach)
    options: dict[str, Any] = {"padding": VALID} | {
        f"stride{axis}": step for axis, step in zip("DHW", stride, strict=True)
    }
    options |= {f"dilation{axis}Factor": step for axis, step in zip("DHW", dilation, strict=True)}
    taken, given = found.weight.shape[1], found.weight.shape[0] // groups
    parts = []
    for group in range(groups):
        rows = slice(group * given, (group + 1) * given)
        part = source if groups == 1 else _channels(w, source, group * taken, taken)
        operands = [part, w.constant(found.weight[rows].permute(2, 3, 4, 1, 0)), w.constant(found.bias[rows])]
        parts.append(w.op("CONV_3D", operands, (source.shape[0], *out, given), **options))
    if groups > 1:
        parts = [w.op("CONCATENATION", parts, in_form(call.sizes, form), call.name, axis=4)]
    return call.result(parts[0], form)


def _lead(padding: str | Sequence[int], reach: Sequence[int]) -> list[int]:
    """Zeros in front of each spatial axis."""
    if isinstance(padding, str):
        return [(r - 1) // 2 if padding == "same" else 0 for r in reach]
    return spread(padding, 3)


def _padded(
    w: Writer, source: Tensor, lead: Sequence[int], out: Sequence[int], stride: Sequence[int], reach: Sequence[int]
) -> Tensor:
    sizes = zip(source.shape[1:4], out, stride, reach, lead, strict=True)
    sides = [(p, max((o - 1) * s + r - int(n) - p, 0)) for n, o, s, r, p in sizes]
    if not any(sum(side) for side in sides):
        return source
    grown = [int(n) + sum(side) for n, side in zip(source.shape[1:4], sides, strict=True)]
    table = torch.tensor([(0, 0), *sides, (0, 0)], dtype=torch.int32)
    return w.op("PAD", [source, w.constant(table)], (source.shape[0], *grown, source.shape[4]))


def _channels(w: Writer, source: Tensor, start: int, count: int) -> Tensor:
    """`count` entries of the last axis."""
    last = source.rank - 1
    operands = [
        source,
        w.ints([0] * last + [start]),
        w.ints([0] * last + [start + count]),
        w.ints([1] * (last + 1)),
    ]
    mask = (1 << last) - 1
    return w.op("STRIDED_SLICE", operands, (*source.shape[:last], count), beginMask=mask, endMask=mask)


def _pool(node: fx.Node) -> str | None:
    args, sizes = bound_args(node), shape(node.args[0])
    if len(sizes) != 5 or not all(isinstance(size, int) for size in sizes[1:]):
        return "the input is not a batch of volumes of one size"
    if args.get("divisor_override") is not None:
        return "divisor_override is set"
    dilated = "dilation" in args and set(pool_sizes(args, "dilation", 3)) != {1}
    return "a dilated pool has no kernel" if dilated else None


@lowerings.op(aten.max_pool3d.default, aten.avg_pool3d.default, check=_pool)
def pool3d(w: Writer, call: Call) -> Value:
    """A pool over height and width of every frame, then one over the frames."""
    largest = call.node.target is aten.max_pool3d.default
    code = "MAX_POOL_2D" if largest else "AVERAGE_POOL_2D"
    filler = float(torch.finfo(torch.float32).min) if largest else 0.0
    kernel, stride, lead = (pool_sizes(call.args, key, 3) for key in ("kernel_size", "stride", "padding"))
    form = channels_last(5)
    source = read(w, call.value("self"), form)
    batch, depth, height, width, channels = source.shape
    steps = [int(size) for size in call.sizes[2:]]
    inner = (depth, height, width)
    reach = zip(inner, steps, kernel, stride, lead, strict=True)
    pads = [(p, max(0, (o - 1) * s + k - int(n) - p)) for n, o, k, s, p in reach]
    frames = _times(batch, int(depth))
    flat = reshape(w, source, (frames, height, width, channels))
    planes = (frames, *steps[1:], channels)
    pooled = pooled_image(w, flat, code, kernel[1:], stride[1:], pads[1:], filler, planes)
    rows = reshape(w, pooled, (batch, depth, math.prod(steps[1:]), channels))
    columns = (batch, steps[0], math.prod(steps[1:]), channels)
    pooled = pooled_image(w, rows, code, [kernel[0], 1], [stride[0], 1], [pads[0], (0, 0)], filler, columns)
    made = reshape(w, pooled, in_form(call.sizes, form), call.name)
    factors = None if largest else window_factors(call, math.prod(kernel))
    if factors is not None:
        made = w.op("MUL", [made, read(w, constant_value(factors), form)], made.shape)
    return call.result(made, form)


def _times(size: Size, count: int) -> Size:
    return size * count if isinstance(size, int) else f"{size}*{count}"
