"""Lowerings of pools, reductions and padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

from ...compiler.ir.ops import aten, bound_args
from ...compiler.ir.sizes import dtype, shape
from ...compiler.quant.kernels import as_integer, pool_sizes
from .arithmetic import quantize
from .emit_products import SAME, VALID, image, image_sizes
from .table import Call, lowerings
from .values import Form, Value, channels_last, constant_value, held, in_form, natural, read, reshape
from .writer import Size, Tensor, Writer


def _static_space(node: fx.Node) -> str | None:
    sizes = shape(node.args[0])
    if len(sizes) not in (3, 4) or len(shape(node)) != len(sizes):
        return "the input is not a batch of images or sequences"
    return None if all(isinstance(size, int) for size in sizes[1:]) else "a spatial axis has a symbolic size"


def _max_pool(node: fx.Node) -> str | None:
    if (reason := _static_space(node)) is not None:
        return reason
    args = bound_args(node)
    dilated = set(pool_sizes(args, "dilation", len(shape(node)) - 2)) != {1}
    return "a dilated pool has no kernel" if dilated else None


@lowerings.op(aten.max_pool1d.default, aten.max_pool2d.default, check=_max_pool)
def max_pool(w: Writer, call: Call) -> Value:
    kernel, stride, pads = _window(call)
    lowest = -128 if call.qparams is not None else float(torch.finfo(torch.float32).min)
    return _pooled(w, call, "MAX_POOL_2D", kernel, stride, pads, lowest)


def plain_average(node: fx.Node) -> str | None:
    """The integer kernel divides by the whole window, and pads with zeros before it."""
    args, spatial = bound_args(node), len(shape(node)) - 2
    padded = any(pool_sizes(args, "padding", spatial))
    if padded and not args["count_include_pad"]:
        return "the padding does not count"
    return "ceil mode divides by parts of windows" if args["ceil_mode"] else None


def _average_pool(node: fx.Node) -> str | None:
    if bound_args(node).get("divisor_override") is not None:
        return "divisor_override is set"
    return _static_space(node)


@lowerings.op(aten.avg_pool1d.default, aten.avg_pool2d.default, check=_average_pool)
def average_pool(w: Writer, call: Call) -> Value:
    """Windows that divide by less than their size are corrected by a factor of their own."""
    kernel, stride, pads = _window(call)
    zero = 0.0 if call.qparams is None else call.qparams.zero_point[0]
    pooled = _pooled(w, call, "AVERAGE_POOL_2D", kernel, stride, pads, zero)
    factors = window_factors(call, math.prod(kernel))
    if factors is None:
        return pooled
    form = pooled.preferred()
    tensor, factor = read(w, pooled, form), read(w, constant_value(factors, f"{call.name}/factors"), form)
    return call.result(w.op("MUL", [tensor, factor], tensor.shape), form)


def window_factors(call: Call, count: int) -> torch.Tensor | None:
    """Window size over divisor at each place, [1, 1, *spatial]; None where it is 1 everywhere."""
    x, args = call.value("self"), call.args
    spatial = x.rank - 2
    pool: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[spatial - 1]
    ones = torch.ones((1, 1, *(int(size) for size in x.sizes[2:])))
    sizes = [pool_sizes(args, key, spatial) for key in ("kernel_size", "stride", "padding")]
    kernel, stride, padding = sizes
    mean = pool(ones, kernel, stride, padding, args["ceil_mode"], args["count_include_pad"])
    wide = F.pad(ones, [side for p, k in zip(reversed(padding), reversed(kernel), strict=True) for side in (p, k)])
    inside = pool(wide, kernel, stride)[(..., *(slice(size) for size in mean.shape[2:]))] * count
    divisor = inside / mean
    factors = count / divisor
    return None if bool((factors.round(decimals=5) == 1).all()) else factors


def _window(call: Call) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """Kernel and stride as (height, width), and the padding in front and behind that windows reach."""
    x, args = call.value("self"), call.args
    spatial = x.rank - 2
    found = [pool_sizes(args, key, spatial) for key in ("kernel_size", "stride", "padding")]
    kernel, stride = (values if spatial == 2 else [1, *values] for values in found[:2])
    lead = found[2] if spatial == 2 else [0, *found[2]]
    inner = [int(size) for size in image_sizes(x.sizes)[1:3]]
    outer = [int(size) for size in image_sizes(call.sizes)[1:3]]
    reach = zip(inner, outer, kernel, stride, lead, strict=True)
    pads = [(p, max(0, (o - 1) * s + k - n - p)) for n, o, k, s, p in reach]
    return kernel, stride, pads


def _pooled(
    w: Writer,
    call: Call,
    code: str,
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[tuple[int, int]],
    filler: float,
) -> Value:
    x = call.value("self")
    sizes = image_sizes(call.sizes)
    name = call.name if x.rank == 4 else None
    made = pooled_image(w, image(w, x), code, kernel, stride, pads, filler, sizes, name)
    form = channels_last(x.rank)
    return call.result(reshape(w, made, in_form(call.sizes, form), call.name), form)


def pooled_image(
    w: Writer,
    source: Tensor,
    code: str,
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[tuple[int, int]],
    filler: float,
    sizes: Sequence[Size],
    name: str | None = None,
) -> Tensor:
    """A pool of an image, channels last; `sizes` are the result's."""
    padding, qparams = VALID, source.qparams
    if any(sum(pad) for pad in pads):
        if code == "MAX_POOL_2D" and _is_same(source, sizes, stride, pads):
            padding = SAME
        else:
            source = filled(w, source, [(0, 0), *pads, (0, 0)], filler)
    options: dict[str, Any] = {
        "strideH": stride[0],
        "strideW": stride[1],
        "filterHeight": kernel[0],
        "filterWidth": kernel[1],
    }
    return w.op(code, [source], sizes, name, qparams=qparams, padding=padding, **options)


def _is_same(
    source: Tensor, sizes: Sequence[Size], stride: Sequence[int], pads: Sequence[tuple[int, int]]
) -> bool:
    """Whether TFLite's SAME puts the same padding, the smaller half in front."""
    spatial = [[int(size) for size in given[1:3]] for given in (source.shape, sizes)]
    return all(
        o == -(-n // s) and front == (front + back) // 2
        for n, o, s, (front, back) in zip(*spatial, stride, pads, strict=True)
    )


def filled(
    w: Writer, source: Tensor, pads: Sequence[tuple[int, int]], value: float, name: str | None = None
) -> Tensor:
    """`source` with `value` around it; integers where it holds integers. Zeros are a Pad, which XNNPACK runs."""
    sizes: list[Size] = [
        size if isinstance(size, str) else size + sum(pad) for size, pad in zip(source.shape, pads, strict=True)
    ]
    table = w.constant(torch.tensor(list(pads), dtype=torch.int32))
    zero = 0 if source.qparams is None else source.qparams.zero_point[0]
    if value == zero:
        return w.op("PAD", [source, table], sizes, name, dtype=source.dtype, qparams=source.qparams)
    number = w.constant(torch.tensor([value], dtype=source.dtype), qparams=source.qparams)
    return w.op("PADV2", [source, table, number], sizes, name, dtype=source.dtype, qparams=source.qparams)


def _even(node: fx.Node) -> str | None:
    return _even_sizes(shape(node.args[0]), shape(node))


def _even_sizes(old: Sequence[Size], new: Sequence[Size]) -> str | None:
    if len(old) not in (3, 4) or len(new) != len(old):
        return "the input is not a batch of images or sequences"
    if not all(isinstance(size, int) for size in (*old[1:], *new[1:])):
        return "a spatial axis has a symbolic size"
    even = all(int(n) % int(o) == 0 for n, o in zip(old[2:], new[2:], strict=True))
    return None if even else "the windows are uneven"


@lowerings.op(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, check=_even)
def adaptive_average(w: Writer, call: Call) -> Value:
    x = call.value("self")
    if all(size == 1 for size in call.sizes[2:]):
        return reduced(w, call, "MEAN", list(range(2, x.rank)), True)
    kernel = [
        int(n) // int(o) for n, o in zip(image_sizes(x.sizes)[1:3], image_sizes(call.sizes)[1:3], strict=True)
    ]
    return _pooled(w, call, "AVERAGE_POOL_2D", kernel, kernel, [(0, 0)] * 2, 0)


def _even_values(node: fx.Node) -> str | None:
    if any(user.args[1] != 0 for user in node.users):
        return "its indices are used"
    first = next(iter(node.users))
    return _even_sizes(shape(node.args[0]), shape(first))


@lowerings.op(aten.adaptive_max_pool1d.default, aten.adaptive_max_pool2d.default, check=_even_values)
def adaptive_maximum(w: Writer, call: Call) -> tuple[Value]:
    x = call.value("self")
    out = shape(next(iter(call.node.users)))
    sizes = image_sizes(out)
    kernel = [int(n) // int(o) for n, o in zip(image_sizes(x.sizes)[1:3], sizes[1:3], strict=True)]
    made = pooled_image(w, image(w, x), "MAX_POOL_2D", kernel, kernel, [(0, 0)] * 2, 0, sizes)
    form = channels_last(x.rank)
    return (held(reshape(w, made, in_form(out, form), call.name), out, form),)


def _reduction(node: fx.Node) -> str | None:
    args = bound_args(node)
    if args.get("dtype") is not None and args["dtype"] != dtype(node.args[0]):
        return "the reduction changes the dtype"
    return None if dtype(node) in (torch.float32, torch.int64, torch.int32) else f"no kernel for {dtype(node)}"


@lowerings.op(aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default, check=_reduction)
def reduction(w: Writer, call: Call) -> Value:
    codes = {
        aten.mean.dim: "MEAN",
        aten.sum.dim_IntList: "SUM",
        aten.amax.default: "REDUCE_MAX",
        aten.amin.default: "REDUCE_MIN",
    }
    rank = call.value("self").rank
    given = call.args["dim"]
    axes = [axis % rank for axis in ([given] if isinstance(given, int) else given or range(rank))]
    return reduced(w, call, codes[call.node.target], axes, call.args["keepdim"])  # type: ignore[index]


@lowerings.op(aten.mean.default, aten.sum.default, check=_reduction)
def whole_reduction(w: Writer, call: Call) -> Value:
    code = "MEAN" if call.node.target is aten.mean.default else "SUM"
    return reduced(w, call, code, list(range(call.value("self").rank)), False)


def reduced(w: Writer, call: Call, code: str, axes: Sequence[int], keep: bool) -> Value:
    """A reduction in whatever form the operand has; without `keep` the remaining axes are counted anew."""
    x = call.value("self")
    form = _reduced_form(call, x, axes, keep)
    tensor = read(w, x, form)
    places = w.ints(sorted(form.index(axis) for axis in axes))
    left: Form = form
    if not keep:
        rest = [axis for axis in range(x.rank) if axis not in axes]
        left = tuple(rest.index(axis) for axis in form if axis not in axes)
    sizes = in_form(call.sizes, left)
    kind = None if call.qparams is not None else tensor.dtype
    made = w.op(code, [tensor, places], sizes, call.name, dtype=kind, qparams=call.qparams, keepDims=keep)
    return call.result(made, left)


def _reduced_form(call: Call, x: Value, axes: Sequence[int], keep: bool) -> Form:
    """TFLite's own integer kernel for means over images, axes kept, is another than that for all the rest
    (`builtin.mean`): what it takes must not depend on the form that an operand comes in."""
    if call.qparams is None or x.rank != 4 or not keep:
        return x.preferred()
    forms: dict[tuple[int, ...], Form] = {(2, 3): channels_last(4), (1, 2): natural(4)}
    return forms.get(tuple(sorted(axes)), x.preferred())


def _one_axis(node: fx.Node) -> str | None:
    return None if bound_args(node)["dim"] is not None else "no axis is named"


@lowerings.op(aten.argmax.default, check=_one_axis)
def argmax(w: Writer, call: Call) -> Value:
    x, keep = call.value("self"), call.args["keepdim"]
    axis = call.args["dim"] % x.rank
    sizes = tuple(size for place, size in enumerate(x.sizes) if place != axis)
    operands = [read(w, x), w.ints([axis])]
    made = w.op("ARG_MAX", operands, sizes, call.name, dtype=torch.int64, outputType=4)
    return call.result(reshape(w, made, call.sizes) if keep else made)


def _pad(node: fx.Node) -> str | None:
    args = bound_args(node)
    if not all(isinstance(side, int) for side in args["pad"]):
        return "a pad is symbolic"
    mode = args.get("mode", "constant")
    negative = any(side < 0 for side in args["pad"])
    return "a pad is negative" if mode != "constant" and negative else None


@lowerings.op(aten.pad.default, aten.constant_pad_nd.default, check=_pad)
def pad(w: Writer, call: Call) -> Value:
    x, given = call.value("self"), call.args["pad"]
    pairs = [(given[i], given[i + 1]) for i in range(0, len(given), 2)][::-1]
    sides = [(0, 0)] * (x.rank - len(pairs)) + pairs
    form = x.preferred()
    tensor = read(w, x, form)
    if any(side < 0 for pair in sides for side in pair):
        tensor = _cut(w, tensor, [sides[axis] for axis in form])
        sides = [(max(front, 0), max(back, 0)) for front, back in sides]
    ordered = [sides[axis] for axis in form]
    mode = call.args.get("mode", "constant")
    if mode in ("replicate", "circular"):
        for place, (front, back) in enumerate(ordered):
            tensor = _extended(w, tensor, place, front, back, mode == "circular")
        return call.result(tensor, form)
    if mode == "reflect":
        table = w.constant(torch.tensor(ordered, dtype=torch.int32))
        return call.result(w.op("MIRROR_PAD", [tensor, table], in_form(call.sizes, form), call.name), form)
    value = call.args.get("value") or 0.0
    number = as_integer(value, call.qparams, quantize) if call.qparams is not None else value
    return call.result(filled(w, tensor, ordered, number, call.name), form)


def _extended(w: Writer, tensor: Tensor, place: int, front: int, back: int, circular: bool) -> Tensor:
    """One axis with copies of its first and last entry around it, or with its other end."""
    if not (front or back):
        return tensor
    size = int(tensor.shape[place])
    before, after = (0, 1, front), (size - 1, size, back)
    if circular:
        before, after = (size - front, size, 1), (0, back, 1)
    whole = [_piece(w, tensor, place, *before)] if front else []
    whole += [tensor, _piece(w, tensor, place, *after)] if back else [tensor]
    sizes = list(tensor.shape)
    sizes[place] = size + front + back
    return w.op("CONCATENATION", whole, sizes, axis=place)


def _piece(w: Writer, tensor: Tensor, place: int, start: int, end: int, times: int) -> Tensor:
    vectors = [[fill] * tensor.rank for fill in (0, 0, 1, 1)]
    vectors[0][place], vectors[1][place], vectors[3][place] = start, end, times
    mask = sum(1 << other for other in range(tensor.rank) if other != place)
    sizes = list(tensor.shape)
    sizes[place] = end - start
    bounds = [w.ints(vector) for vector in vectors[:3]]
    made = w.op("STRIDED_SLICE", [tensor, *bounds], sizes, beginMask=mask, endMask=mask)
    if times == 1:
        return made
    sizes[place] = (end - start) * times
    return w.op("TILE", [made, w.ints(vectors[3])], sizes)


def _cut(w: Writer, tensor: Tensor, sides: Sequence[tuple[int, int]]) -> Tensor:
    """What negative sides take away."""
    begin = [max(-front, 0) for front, _ in sides]
    cut = [(front < 0, back < 0) for front, back in sides]
    sizes: list[Size] = [
        size if isinstance(size, str) else size + min(front, 0) + min(back, 0)
        for size, (front, back) in zip(tensor.shape, sides, strict=True)
    ]
    end = [b + s if isinstance(s, int) else 0 for b, s in zip(begin, sizes, strict=True)]
    mask = sum(1 << place for place, taken in enumerate(cut) if taken == (False, False))
    operands = [tensor, w.ints(begin), w.ints(end), w.ints([1] * tensor.rank)]
    return w.op("STRIDED_SLICE", operands, sizes, qparams=tensor.qparams, beginMask=mask, endMask=mask)


def whole_factors(node: fx.Node) -> str | None:
    """Whether a resize repeats every element equally often."""
    pairs = list(zip(shape(node)[2:], shape(node.args[0])[2:], strict=True))
    if not all(isinstance(out, int) and isinstance(size, int) for out, size in pairs):
        return "the output size is symbolic"
    whole = all(int(out) % int(size) == 0 for out, size in pairs)
    factors = bound_args(node)["scale_factors"]
    exact = factors is None or all(factor == int(factor) for factor in factors)
    return None if whole and exact else "the scale is not a whole number"
