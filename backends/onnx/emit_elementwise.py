"""Lowerings of activations, arithmetic, comparisons and casts."""

from __future__ import annotations

import math

import torch
from torch import fx

from ...compiler.ir.ops import aten, bound_args
from ...compiler.ir.qops import is_dequantize
from ...compiler.ir.sizes import dtype
from .table import Call, Value, lowerings
from .writer import DTYPES, Writer

_UNARY = {
    aten.relu.default: "Relu",
    aten.sigmoid.default: "Sigmoid",
    aten.tanh.default: "Tanh",
    aten.hardswish.default: "HardSwish",
    aten.mish.default: "Mish",
    aten.exp.default: "Exp",
    aten.log.default: "Log",
    aten.sqrt.default: "Sqrt",
    aten.neg.default: "Neg",
    aten.abs.default: "Abs",
    aten.erf.default: "Erf",
    aten.floor.default: "Floor",
    aten.ceil.default: "Ceil",
    aten.round.default: "Round",
    aten.sin.default: "Sin",
    aten.cos.default: "Cos",
    aten.sign.default: "Sign",
    aten.reciprocal.default: "Reciprocal",
    aten.logical_not.default: "Not",
    aten.bitwise_not.default: "Not",
}
_ARITHMETIC = {
    aten.mul.Tensor: "Mul",
    aten.mul.Scalar: "Mul",
    aten.div.Tensor: "Div",
    aten.div.Scalar: "Div",
    aten.maximum.default: "Max",
    aten.minimum.default: "Min",
    aten.eq.Tensor: "Equal",
    aten.eq.Scalar: "Equal",
    aten.lt.Tensor: "Less",
    aten.lt.Scalar: "Less",
    aten.le.Tensor: "LessOrEqual",
    aten.le.Scalar: "LessOrEqual",
    aten.gt.Tensor: "Greater",
    aten.gt.Scalar: "Greater",
    aten.ge.Tensor: "GreaterOrEqual",
    aten.ge.Scalar: "GreaterOrEqual",
    aten.logical_and.default: "And",
    aten.bitwise_and.Tensor: "And",
    aten.__and__.Tensor: "And",
    aten.logical_or.default: "Or",
    aten.bitwise_or.Tensor: "Or",
    aten.__or__.Tensor: "Or",
}
_SUMS = {
    aten.add.Tensor: "Add",
    aten.add.Scalar: "Add",
    aten.sub.Tensor: "Sub",
    aten.sub.Scalar: "Sub",
    aten.rsub.Scalar: "Sub",
    aten.rsub.Tensor: "Sub",
}


_BITWISE = frozenset(
    {
        aten.bitwise_not.default,
        aten.bitwise_and.Tensor,
        aten.bitwise_or.Tensor,
        aten.__and__.Tensor,
        aten.__or__.Tensor,
    }
)


def _boolean(node: fx.Node) -> str | None:
    named = node.target in _BITWISE
    return "only booleans are supported" if named and dtype(node) != torch.bool else None


@lowerings.op(*_UNARY, check=_boolean)
def unary(w: Writer, call: Call) -> str:
    return w.op(_UNARY[call.node.target], [call.tensor("self").name], call.name)  # type: ignore[index]


@lowerings.op(*_ARITHMETIC, check=_boolean)
def binary(w: Writer, call: Call) -> str:
    left, right = operands(w, call)
    return w.op(_ARITHMETIC[call.node.target], [left, right], call.name)  # type: ignore[index]


@lowerings.op(*_SUMS)
def weighted_sum(w: Writer, call: Call) -> str:
    """self ± alpha · other; rsub swaps the two."""
    left, right = operands(w, call)
    kind = _common(call)
    if call.args["alpha"] != 1:
        right = w.op("Mul", [right, w.scalar(call.args["alpha"], kind)])
    swapped = call.node.target in (aten.rsub.Scalar, aten.rsub.Tensor)
    return w.op(_SUMS[call.node.target], [right, left] if swapped else [left, right], call.name)  # type: ignore[index]


@lowerings.op(aten.ne.Tensor, aten.ne.Scalar)
def not_equal(w: Writer, call: Call) -> str:
    return w.op("Not", [w.op("Equal", operands(w, call))], call.name)


@lowerings.op(aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor)
def power(w: Writer, call: Call) -> str:
    exponent = call.args["exponent"]
    if exponent == 2:
        return w.op("Mul", [call.tensor("self").name] * 2, call.name)
    if isinstance(exponent, Value):
        return w.op("Pow", [call.tensor("self").name, exponent.name], call.name)
    return w.op("Pow", [call.tensor("self").name, w.scalar(exponent)], call.name)


@lowerings.op(aten.square.default)
def square(w: Writer, call: Call) -> str:
    return w.op("Mul", [call.tensor("self").name] * 2, call.name)


@lowerings.op(aten.rsqrt.default)
def rsqrt(w: Writer, call: Call) -> str:
    return w.op("Reciprocal", [w.op("Sqrt", [call.tensor("self").name])], call.name)


@lowerings.op(aten.leaky_relu.default)
def leaky_relu(w: Writer, call: Call) -> str:
    return w.op("LeakyRelu", [call.tensor("self").name], call.name, alpha=float(call.args["negative_slope"]))


@lowerings.op(aten.elu.default)
def elu(w: Writer, call: Call) -> str:
    return w.op("Elu", [call.tensor("self").name], call.name, alpha=float(call.args["alpha"]))


@lowerings.op(aten.prelu.default)
def prelu(w: Writer, call: Call) -> str:
    """PRelu broadcasts from the last axis: the slope of each channel gets trailing axes."""
    x, slope = call.tensor("self"), call.tensor("weight")
    sizes = [-1] + [1] * max(x.rank - 2, 0)
    return w.op("PRelu", [x.name, w.op("Reshape", [slope.name, w.ints(sizes)])], call.name)


@lowerings.op(aten.hardsigmoid.default)
def hardsigmoid(w: Writer, call: Call) -> str:
    return w.op("HardSigmoid", [call.tensor("self").name], call.name, alpha=1 / 6, beta=0.5)


@lowerings.op(aten.silu.default)
def silu(w: Writer, call: Call) -> str:
    x = call.tensor("self").name
    return w.op("Mul", [x, w.op("Sigmoid", [x])], call.name)


@lowerings.op(aten.gelu.default)
def gelu(w: Writer, call: Call) -> str:
    return w.op("Gelu", [call.tensor("self").name], call.name, approximate=call.args["approximate"])


def _plain_softplus(node: fx.Node) -> str | None:
    args = bound_args(node)
    return None if args["beta"] == 1 else "beta is not 1"


@lowerings.op(aten.softplus.default, check=_plain_softplus)
def softplus(w: Writer, call: Call) -> str:
    return w.op("Softplus", [call.tensor("self").name], call.name)


@lowerings.op(aten.softmax.int)
def softmax(w: Writer, call: Call) -> str:
    """Where the size may be 1, in a form that onnxruntime does not fuse: QLinearSoftmax gives 0 there."""
    x, axis = call.tensor("self"), call.args["dim"]
    if is_dequantize(x.node) and (isinstance(x.shape[axis], str) or x.shape[axis] == 1):
        return w.op("Exp", [w.op("LogSoftmax", [x.name], axis=axis)], call.name)
    return w.op("Softmax", [call.tensor("self").name], call.name, axis=call.args["dim"])


@lowerings.op(aten.log_softmax.int)
def log_softmax(w: Writer, call: Call) -> str:
    return w.op("LogSoftmax", [call.tensor("self").name], call.name, axis=call.args["dim"])


@lowerings.op(aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default, aten.hardtanh.default)
def clip(w: Writer, call: Call) -> str:
    x = call.tensor("self")
    low = call.args.get("min", call.args.get("min_val"))
    high = call.args.get("max", call.args.get("max_val"))
    bounds = ["" if bound is None else w.scalar(bound, x.dtype) for bound in (low, high)]
    return w.op("Clip", [x.name, *bounds], call.name)


@lowerings.op(aten.clamp.Tensor)
def clip_by_tensors(w: Writer, call: Call) -> str:
    """clamp(x, min, max): the larger of x and min, then the smaller of that and max."""
    kind = dtype(call.node)
    value, given = _as(w, call.tensor("self"), kind), [key for key in ("min", "max") if call.args[key] is not None]
    for key in given:
        out = call.name if key == given[-1] else None
        value = w.op({"min": "Max", "max": "Min"}[key], [value, _as(w, call.tensor(key), kind)], out)
    return value


@lowerings.op(aten.relu6.default)
def relu6(w: Writer, call: Call) -> str:
    return w.op("Clip", [call.tensor("self").name, w.scalar(0.0), w.scalar(6.0)], call.name)


@lowerings.op(aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther, aten.where.Scalar)
def where(w: Writer, call: Call) -> str:
    kind = dtype(call.node)
    sides = (call.args["self"], call.args["other"])
    chosen = [_as(w, side, kind) if isinstance(side, Value) else w.scalar(side, kind) for side in sides]
    return w.op("Where", [call.tensor("condition").name, *chosen], call.name)


@lowerings.op(aten.masked_fill.Scalar)
def masked_fill(w: Writer, call: Call) -> str:
    x = call.tensor("self")
    value = w.scalar(call.args["value"], x.dtype)
    return w.op("Where", [call.tensor("mask").name, value, x.name], call.name)


def _known_dtype(node: fx.Node) -> str | None:
    return None if dtype(node) in DTYPES else f"{dtype(node)} has no ONNX type here"


@lowerings.op(
    aten.to.dtype,
    aten.to.dtype_layout,
    aten._to_copy.default,
    aten.to.device,
    aten.type_as.default,
    check=_known_dtype,
)
def cast(w: Writer, call: Call) -> str:
    x, kind = call.tensor("self"), dtype(call.node)
    if x.dtype == kind:
        return w.op("Identity", [x.name], call.name)
    return w.op("Cast", [x.name], call.name, to=DTYPES[kind])


def operands(w: Writer, call: Call) -> list[str]:
    """Names of `self` and `other` in their common dtype; a number becomes a constant."""
    kind = _common(call)
    sides = (call.args["self"], call.args["other"])
    return [_as(w, side, kind) if isinstance(side, Value) else w.scalar(side, kind) for side in sides]


def _common(call: Call) -> torch.dtype:
    result = dtype(call.node)
    if result != torch.bool:
        return result
    left, right = call.args["self"], call.args["other"]
    if isinstance(right, Value):
        return torch.promote_types(left.dtype, right.dtype)
    inexact = isinstance(right, float) and not left.dtype.is_floating_point and not math.isinf(right)
    return torch.float32 if inexact else left.dtype


def _as(w: Writer, value: Value, kind: torch.dtype) -> str:
    if value.dtype == kind:
        return value.name
    return w.op("Cast", [value.name], f"{value.name}/{str(kind).removeprefix('torch.')}", to=DTYPES[kind])
