"""Lowerings of pools, reductions, resizing and padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ...compiler.ir.ops import aten, bound_args
from ...compiler.ir.sizes import shape
from ...compiler.quant.kernels import pool_sizes
from .emit_views import sizes_of
from .table import Call, lowerings
from .writer import Writer

_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@lowerings.op(aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)
def max_pool(w: Writer, call: Call) -> str:
    x = call.tensor("self")
    return w.op(
        "MaxPool",
        [x.name],
        call.name,
        **_window(call, x.rank - 2),
        dilations=pool_sizes(call.args, "dilation", x.rank - 2),
    )


def average_pool_reason(node: fx.Node) -> str | None:
    """onnxruntime counts windows that leave the padded input otherwise than PyTorch, and knows no divisor."""
    args = bound_args(node)
    if args.get("divisor_override") is not None:
        return "divisor_override is set"
    if args["ceil_mode"] and args["count_include_pad"] and any(_listed(args["padding"])):
        return "ceil_mode with counted padding divides otherwise in onnxruntime"
    return None


@lowerings.op(aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default, check=average_pool_reason)
def average_pool(w: Writer, call: Call) -> str:
    x = call.tensor("self")
    counted = call.args["count_include_pad"] and any(_listed(call.args["padding"]))
    window = _window(call, x.rank - 2)
    return w.op("AveragePool", [x.name], call.name, **window, count_include_pad=int(counted))


def _divides(node: fx.Node) -> str | None:
    sizes, wanted = shape(node.args[0])[2:], _listed(bound_args(node)["output_size"])
    if set(wanted) == {1}:
        return None
    whole = all(isinstance(n, int) and o and n % o == 0 for n, o in zip(sizes, wanted, strict=True))
    return None if whole else f"output size {list(wanted)} does not divide the input's {list(sizes)}"


@lowerings.op(
    aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default,
    aten.adaptive_avg_pool3d.default,
    check=_divides,
)
def adaptive_average_pool(w: Writer, call: Call) -> str:
    x, wanted = call.tensor("self"), _listed(call.args["output_size"])
    if set(wanted) == {1}:
        return w.op("GlobalAveragePool", [x.name], call.name)
    window = [int(n) // o for n, o in zip(x.shape[2:], wanted, strict=True)]
    return w.op("AveragePool", [x.name], call.name, kernel_shape=window, strides=window)


def _maxima_only(node: fx.Node) -> str | None:
    if any(user.args[1] != 0 for user in node.users):
        return "the places of the maxima are read"
    return _divides(node)


@lowerings.op(
    aten.adaptive_max_pool1d.default,
    aten.adaptive_max_pool2d.default,
    aten.adaptive_max_pool3d.default,
    check=_maxima_only,
)
def adaptive_max_pool(w: Writer, call: Call) -> tuple[str, str]:
    """The maxima alone."""
    x, wanted = call.tensor("self"), _listed(call.args["output_size"])
    if set(wanted) == {1}:
        return w.op("GlobalMaxPool", [x.name], call.name), ""
    window = [int(n) // o for n, o in zip(x.shape[2:], wanted, strict=True)]
    return w.op("MaxPool", [x.name], call.name, kernel_shape=window, strides=window), ""


@lowerings.op(aten.max.dim, aten.min.dim)
def extreme(w: Writer, call: Call) -> tuple[str, str]:
    """Values and their places."""
    x, axis, keep = call.tensor("self").name, call.args["dim"], int(call.args["keepdim"])
    kind = "Max" if call.node.target is aten.max.dim else "Min"
    values = w.op(f"Reduce{kind}", [x, w.ints([axis])], f"{call.name}/0", keepdims=keep)
    return values, w.op(f"Arg{kind}", [x], f"{call.name}/1", axis=axis, keepdims=keep)


@lowerings.op(aten.logsumexp.default)
def log_sum_exp(w: Writer, call: Call) -> str:
    axes = w.ints(_listed(call.args["dim"]))
    return w.op("ReduceLogSumExp", [call.tensor("self").name, axes], call.name, keepdims=int(call.args["keepdim"]))


@lowerings.op(aten.mean.dim)
def mean(w: Writer, call: Call) -> str:
    """Over every spatial axis a GlobalAveragePool, which has an integer kernel; else ReduceMean."""
    x, kept = call.tensor("self"), call.args["keepdim"]
    axes = [axis % x.rank for axis in call.args["dim"] or range(x.rank)]
    if x.rank > 2 and sorted(axes) == list(range(2, x.rank)):
        if kept:
            return w.op("GlobalAveragePool", [x.name], call.name)
        return w.op("Squeeze", [w.op("GlobalAveragePool", [x.name]), w.ints(sorted(axes))], call.name)
    return w.op("ReduceMean", [x.name, w.ints(axes)], call.name, keepdims=int(kept))


_REDUCTIONS = {
    aten.sum.dim_IntList: "ReduceSum",
    aten.amax.default: "ReduceMax",
    aten.amin.default: "ReduceMin",
    aten.prod.dim_int: "ReduceProd",
}


@lowerings.op(*_REDUCTIONS)
def reduce(w: Writer, call: Call) -> str:
    x = call.tensor("self")
    axes = w.ints(_listed(call.args["dim"]) or list(range(x.rank)))
    kind = _REDUCTIONS[call.node.target]  # type: ignore[index]
    return w.op(kind, [x.name, axes], call.name, keepdims=int(call.args["keepdim"]))


@lowerings.op(aten.mean.default, aten.sum.default)
def reduce_all(w: Writer, call: Call) -> str:
    kind = "ReduceMean" if call.node.target is aten.mean.default else "ReduceSum"
    return w.op(kind, [call.tensor("self").name], call.name, keepdims=0)


def _first_or_second(node: fx.Node) -> str | None:
    order = bound_args(node)["ord"]
    return None if order in (1, 2) else f"the norm's order {order} is neither 1 nor 2"


@lowerings.op(aten.linalg_vector_norm.default, check=_first_or_second)
def vector_norm(w: Writer, call: Call) -> str:
    x = call.tensor("self")
    axes = w.ints(_listed(call.args["dim"]) if call.args["dim"] is not None else list(range(x.rank)))
    return w.op(f"ReduceL{int(call.args['ord'])}", [x.name, axes], call.name, keepdims=int(call.args["keepdim"]))


@lowerings.op(aten.argmax.default)
def argmax(w: Writer, call: Call) -> str:
    x = call.tensor("self").name
    if call.args["dim"] is None:
        flat = w.op("Reshape", [x, w.ints([-1])])
        return w.op("ArgMax", [flat], call.name, axis=0, keepdims=0)
    return w.op("ArgMax", [x], call.name, axis=call.args["dim"], keepdims=int(call.args["keepdim"]))


@lowerings.op(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest3d.vec)
def upsample_nearest(w: Writer, call: Call) -> str:
    return _resize(w, call, mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric")


@lowerings.op(aten.upsample_linear1d.vec, aten.upsample_bilinear2d.vec)
def upsample_linear(w: Writer, call: Call) -> str:
    corners = "align_corners" if call.args["align_corners"] else "half_pixel"
    return _resize(w, call, mode="linear", coordinate_transformation_mode=corners)


@lowerings.op(
    aten._upsample_nearest_exact1d.vec, aten._upsample_nearest_exact2d.vec, aten._upsample_nearest_exact3d.vec
)
def upsample_nearest_exact(w: Writer, call: Call) -> str:
    transform = "half_pixel"
    return _resize(
        w, call, mode="nearest", nearest_mode="round_prefer_ceil", coordinate_transformation_mode=transform
    )


@lowerings.op(aten.upsample_bicubic2d.vec)
def upsample_cubic(w: Writer, call: Call) -> str:
    corners = "align_corners" if call.args["align_corners"] else "half_pixel"
    return _resize(w, call, mode="cubic", cubic_coeff_a=-0.75, coordinate_transformation_mode=corners)


def _padding_reason(node: fx.Node) -> str | None:
    if any(isinstance(side, fx.Node) for side in node.args[1]):  # type: ignore[union-attr]
        return "a pad is symbolic"
    mode = bound_args(node).get("mode", "constant")
    return None if mode in _PAD_MODES else f"pad mode {mode!r} is not supported"


@lowerings.op(aten.pad.default, aten.constant_pad_nd.default, check=_padding_reason)
def pad(w: Writer, call: Call) -> str:
    x, mode = call.tensor("self"), call.args.get("mode", "constant")
    value = [w.scalar(call.args["value"] or 0, x.dtype)] if mode == "constant" else []
    pads = w.ints(onnx_pads(call.args["pad"], x.rank))
    return w.op("Pad", [x.name, pads, *value], call.name, mode=_PAD_MODES[mode])


def onnx_pads(sides: Sequence[int], rank: int) -> list[int]:
    """PyTorch's pads (last axis first, before and after) as ONNX's (every axis before, then every axis after)."""
    missing = rank - len(sides) // 2
    before, after = list(sides[0::2])[::-1], list(sides[1::2])[::-1]
    return [0] * missing + before + [0] * missing + after


def pad_mode(attrs: Any) -> str:
    """ONNX's name for the mode of aten.pad."""
    return _PAD_MODES[attrs.get("mode", "constant")]


def _window(call: Call, spatial: int) -> dict[str, Any]:
    """Attributes of a pool; where sizes are static, ceil mode is written as the padding that it comes to.

    The last window of PyTorch starts inside the input or its left padding; ONNX's shape inference does not know.
    """
    kernel, stride, padding = (pool_sizes(call.args, key, spatial) for key in ("kernel_size", "stride", "padding"))
    window = {"kernel_shape": kernel, "strides": stride}
    outer, inner = shape(call.node)[-spatial:], call.tensor("self").shape[-spatial:]
    if not call.args["ceil_mode"] or not all(isinstance(size, int) for size in (*outer, *inner)):
        return window | {"pads": padding * 2, "ceil_mode": int(call.args["ceil_mode"])}
    dilation = pool_sizes(call.args, "dilation", spatial) if "dilation" in call.args else [1] * spatial
    sizes = zip(inner, outer, kernel, stride, dilation, padding, strict=True)
    ends = [max(0, (int(o) - 1) * s + (k - 1) * d + 1 - int(n) - p) for n, o, k, s, d, p in sizes]
    if any(end >= k for end, k in zip(ends, kernel, strict=True)):  # a dilated window; onnxruntime refuses it
        return window | {"pads": padding * 2, "ceil_mode": 1}
    return window | {"pads": [*padding, *ends], "ceil_mode": 0}


def _resize(w: Writer, call: Call, **attributes: Any) -> str:
    """By scales wherever sizes are static: onnxruntime moves those to channels-last, `axes` and `sizes` not."""
    x = call.tensor("input")
    factors, sizes = call.args["scale_factors"], call.args["output_size"]
    if factors is None and all(isinstance(size, int) for size in (*sizes, *x.shape[2:])):
        factors = [_factor(int(n), int(out)) for n, out in zip(x.shape[2:], sizes, strict=True)]
    if factors is not None:
        scales = w.vector(torch.tensor([1.0, 1.0, *factors], dtype=torch.float32), "scales")
        return w.op("Resize", [x.name, "", scales], call.name, **attributes)
    kept = w.op("Shape", [x.name], start=0, end=2)
    target = w.op("Concat", [kept, *sizes_of(w, sizes)], axis=0)
    return w.op("Resize", [x.name, "", "", target], call.name, **attributes)


def _factor(size: int, out: int) -> float:
    """The float32 scale by which `out` is size · scale rounded down, in float32 and in float64."""
    scale = torch.tensor(out / size, dtype=torch.float32)
    if int(float(scale) * size) < out:
        scale = torch.nextafter(scale, torch.tensor(torch.inf))
    return float(scale)


def _listed(value: Any) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else list(value)
