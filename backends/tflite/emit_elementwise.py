"""Lowerings of activations, arithmetic, comparisons and casts."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from ...compiler.ir.ops import aten, bound_args
from ...compiler.ir.sizes import dtype
from ...compiler.quant.qparams import QParams
from ..xnnpack.arithmetic import PROBABILITY
from .activations import limited
from .arithmetic import GATE, LARGEST, SHIFTED, SIXTH, THREE, alone_bounds
from .table import Call, elementwise, lowerings
from .values import Form, Value, aligned, common_form, constant_value, in_form, read
from .writer import DTYPES, Tensor, Writer

_UNARY = {
    aten.sigmoid.default: "LOGISTIC",
    aten.tanh.default: "TANH",
    aten.exp.default: "EXP",
    aten.log.default: "LOG",
    aten.sqrt.default: "SQRT",
    aten.rsqrt.default: "RSQRT",
    aten.neg.default: "NEG",
    aten.abs.default: "ABS",
    aten.floor.default: "FLOOR",
    aten.ceil.default: "CEIL",
    aten.round.default: "ROUND",
    aten.sin.default: "SIN",
    aten.cos.default: "COS",
    aten.sign.default: "SIGN",
    aten.logical_not.default: "LOGICAL_NOT",
    aten.bitwise_not.default: "LOGICAL_NOT",
    aten.square.default: "SQUARE",
}
_ARITHMETIC = {
    aten.mul.Tensor: "MUL",
    aten.mul.Scalar: "MUL",
    aten.div.Tensor: "DIV",
    aten.div.Scalar: "DIV",
    aten.maximum.default: "MAXIMUM",
    aten.minimum.default: "MINIMUM",
    aten.eq.Tensor: "EQUAL",
    aten.eq.Scalar: "EQUAL",
    aten.ne.Tensor: "NOT_EQUAL",
    aten.ne.Scalar: "NOT_EQUAL",
    aten.lt.Tensor: "LESS",
    aten.lt.Scalar: "LESS",
    aten.le.Tensor: "LESS_EQUAL",
    aten.le.Scalar: "LESS_EQUAL",
    aten.gt.Tensor: "GREATER",
    aten.gt.Scalar: "GREATER",
    aten.ge.Tensor: "GREATER_EQUAL",
    aten.ge.Scalar: "GREATER_EQUAL",
    aten.logical_and.default: "LOGICAL_AND",
    aten.bitwise_and.Tensor: "LOGICAL_AND",
    aten.__and__.Tensor: "LOGICAL_AND",
    aten.logical_or.default: "LOGICAL_OR",
    aten.bitwise_or.Tensor: "LOGICAL_OR",
    aten.__or__.Tensor: "LOGICAL_OR",
}
_SUMS = {
    aten.add.Tensor: "ADD",
    aten.add.Scalar: "ADD",
    aten.sub.Tensor: "SUB",
    aten.sub.Scalar: "SUB",
    aten.rsub.Scalar: "SUB",
    aten.rsub.Tensor: "SUB",
}
_FUSING = frozenset({"ADD", "SUB", "MUL"})
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
    if node.target in _BITWISE and dtype(node) != torch.bool:
        return "only booleans are supported"
    return _known_dtype(node)


def _known_dtype(node: fx.Node) -> str | None:
    return None if dtype(node) in DTYPES else f"{dtype(node)} has no kernels in TFLite"


@lowerings.op(*_UNARY, check=_boolean)
def unary(w: Writer, call: Call) -> Value:
    return elementwise(w, call, _UNARY[call.node.target])  # type: ignore[index]


@lowerings.op(aten.reciprocal.default)
def reciprocal(w: Writer, call: Call) -> Value:
    x = call.value("self")
    form = x.preferred()
    tensor = read(w, x, form)
    made = w.op("DIV", [w.number(1.0), tensor], tensor.shape, call.name, dtype=torch.float32)
    return call.result(made, form)


@lowerings.op(*_ARITHMETIC, check=_boolean)
def binary(w: Writer, call: Call) -> Value:
    return two(w, call, _ARITHMETIC[call.node.target], call.args["self"], call.args["other"])  # type: ignore[index]


@lowerings.op(*_SUMS, check=_boolean)
def weighted_sum(w: Writer, call: Call) -> Value:
    """self ± alpha · other; rsub swaps the two."""
    left, right = call.args["self"], call.args["other"]
    if call.args["alpha"] != 1:
        right = _scaled(w, call, right)
    swapped = call.node.target in (aten.rsub.Scalar, aten.rsub.Tensor)
    code = _SUMS[call.node.target]  # type: ignore[index]
    return two(w, call, code, *((right, left) if swapped else (left, right)))


def _scaled(w: Writer, call: Call, value: Any) -> Any:
    alpha = call.args["alpha"]
    if not isinstance(value, Value):
        return alpha * value
    form = value.preferred()
    tensor = as_kind(w, read(w, value, form), dtype(call.node))
    made = w.op("MUL", [tensor, w.number(alpha, dtype(call.node))], tensor.shape)
    return Value(value.sizes, made.dtype, None, made.name, {form: made})


def two(w: Writer, call: Call, code: str, left: Any, right: Any) -> Value:
    """An operator of two operands that broadcast; a number becomes a constant."""
    rank = len(call.sizes)
    form = common_form([side for side in (left, right) if isinstance(side, Value)], rank)
    kind = _common(call, left, right)
    tensors = [operand(w, side, form, kind) for side in (left, right)]
    options = {"fusedActivationFunction": call.activation} if code in _FUSING else {}
    result = None if call.qparams is not None else dtype(call.node)
    sizes = in_form(call.sizes, form)
    made = w.op(code, tensors, sizes, call.name, dtype=result, qparams=call.qparams, **options)
    return call.result(made, form)


def operand(w: Writer, side: Any, form: Form, kind: torch.dtype) -> Tensor:
    if not isinstance(side, Value):
        return w.number(side, kind)
    if side.qparams is not None:
        return aligned(w, side, form)
    if side.stored is not None and side.dtype != kind:
        side = constant_value(side.stored.to(kind), side.name)
    return as_kind(w, aligned(w, side, form), kind)


def _common(call: Call, left: Any, right: Any) -> torch.dtype:
    result = dtype(call.node)
    if result != torch.bool:
        return result
    if isinstance(left, Value) and isinstance(right, Value):
        return torch.promote_types(left.dtype, right.dtype)
    inexact = isinstance(right, float) and not left.dtype.is_floating_point and not math.isinf(right)
    return torch.float32 if inexact else left.dtype


def as_kind(w: Writer, tensor: Tensor, kind: torch.dtype) -> Tensor:
    if tensor.dtype == kind or tensor.qparams is not None:
        return tensor
    types = [_type(tensor.dtype), _type(kind)]
    return w.op("CAST", [tensor], tensor.shape, dtype=kind, inDataType=types[0], outDataType=types[1])


def _type(kind: torch.dtype) -> int:
    from .schema import schema

    number: int = getattr(schema().TensorType, DTYPES[kind])
    return number


@lowerings.op(aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor)
def power(w: Writer, call: Call) -> Value:
    exponent = call.args["exponent"]
    left = call.args["self"]
    if exponent == 2:
        return two(w, call, "MUL", left, left)
    return two(w, call, "POW", left, exponent)


@lowerings.op(aten.hardswish.default)
def hardswish(w: Writer, call: Call) -> Value:
    """In integers a product of x and its gate, which XNNPACK runs."""
    if call.qparams is None:
        return elementwise(w, call, "HARD_SWISH")
    x = call.value("self")
    form = x.preferred()
    return _product(w, call, form, _gate(w, call, form, GATE, f"{call.name}/gate"))


@lowerings.op(aten.hardsigmoid.default)
def hardsigmoid(w: Writer, call: Call) -> Value:
    """relu6(x + 3) / 6; in integers the result of the sum saturates at 0 and 6."""
    form = call.value("self").preferred()
    return call.result(_gate(w, call, form, call.qparams, call.name), form)


def _gate(w: Writer, call: Call, form: Form, qp: QParams | None, name: str) -> Tensor:
    x = read(w, call.value("self"), form)
    if qp is None:
        shifted = w.op("ADD", [x, w.number(3.0)], x.shape, fusedActivationFunction=3)
        return w.op("MUL", [shifted, w.number(1 / 6)], x.shape, name)
    largest = torch.full((1,) * x.rank, LARGEST, dtype=torch.int8)
    shifted = w.op("ADD", [x, w.constant(largest, qparams=THREE)], x.shape, f"{name}/shifted", qparams=SHIFTED)
    return w.op("MUL", [shifted, w.constant(largest, qparams=SIXTH)], x.shape, name, qparams=qp)


@lowerings.op(aten.silu.default)
def silu(w: Writer, call: Call) -> Value:
    form = call.value("self").preferred()
    x = read(w, call.value("self"), form)
    qp = None if call.qparams is None else PROBABILITY
    return _product(w, call, form, w.op("LOGISTIC", [x], x.shape, f"{call.name}/gate", qparams=qp))


def _product(w: Writer, call: Call, form: Form, gate: Tensor) -> Value:
    x = read(w, call.value("self"), form)
    return call.result(w.op("MUL", [x, gate], x.shape, call.name, qparams=call.qparams), form)


@lowerings.op(aten.leaky_relu.default)
def leaky_relu(w: Writer, call: Call) -> Value:
    return elementwise(w, call, "LEAKY_RELU", alpha=float(call.args["negative_slope"]))


def _plain_elu(node: fx.Node) -> str | None:
    args = bound_args(node)
    return None if (args["alpha"], args["scale"], args["input_scale"]) == (1, 1, 1) else "a factor is not 1"


@lowerings.op(aten.elu.default, check=_plain_elu)
def elu(w: Writer, call: Call) -> Value:
    return elementwise(w, call, "ELU")


@lowerings.op(aten.gelu.default)
def gelu(w: Writer, call: Call) -> Value:
    return elementwise(w, call, "GELU", approximate=call.args["approximate"] == "tanh")


@lowerings.op(aten.prelu.default)
def prelu(w: Writer, call: Call) -> Value:
    """max(x, 0) + slope · min(x, 0), one slope for each channel."""
    x, slope = call.value("self"), call.value("weight")
    form = x.preferred()
    tensor = read(w, x, form)
    stored = slope.stored
    assert stored is not None
    sizes = [1] * x.rank
    sizes[min(1, x.rank - 1)] = stored.numel()
    factor = read(w, constant_value(stored.reshape(sizes), slope.name), form)
    positive = w.op("RELU", [tensor], tensor.shape)
    negative = w.op("MINIMUM", [tensor, w.number(0.0)], tensor.shape)
    scaled = w.op("MUL", [negative, factor], tensor.shape)
    return call.result(w.op("ADD", [positive, scaled], tensor.shape, call.name), form)


@lowerings.op(aten.mish.default)
def mish(w: Writer, call: Call) -> Value:
    """x · tanh(softplus(x))"""
    form = call.value("self").preferred()
    x = read(w, call.value("self"), form)
    gate = w.op("TANH", [_softplus(w, x)], x.shape)
    return call.result(w.op("MUL", [x, gate], x.shape, call.name), form)


def _plain_softplus(node: fx.Node) -> str | None:
    return None if bound_args(node)["beta"] == 1 else "beta is not 1"


@lowerings.op(aten.softplus.default, check=_plain_softplus)
def softplus(w: Writer, call: Call) -> Value:
    form = call.value("self").preferred()
    return call.result(_softplus(w, read(w, call.value("self"), form)), form)


def _softplus(w: Writer, x: Tensor) -> Tensor:
    """max(x, 0) + log(1 + exp(-|x|))"""
    size = w.op("NEG", [w.op("ABS", [x], x.shape)], x.shape)
    grown = w.op("ADD", [w.op("EXP", [size], x.shape), w.number(1.0)], x.shape)
    return w.op("ADD", [w.op("RELU", [x], x.shape), w.op("LOG", [grown], x.shape)], x.shape)


@lowerings.op(aten.softmax.int, aten.log_softmax.int)
def softmax(w: Writer, call: Call) -> Value:
    """TFLite's is over the last axis."""
    x, log = call.value("self"), call.node.target is aten.log_softmax.int
    axis = call.args["dim"] % x.rank
    form = x.preferred()
    if form[-1] != axis:
        form = (*(place for place in range(x.rank) if place != axis), axis)
    tensor = read(w, x, form)
    code = "LOG_SOFTMAX" if log else "SOFTMAX"
    options: dict[str, Any] = {} if log else {"beta": 1.0}
    made = w.op(code, [tensor], tensor.shape, call.name, qparams=call.qparams, **options)
    return call.result(made, form)


@lowerings.op(
    aten.relu.default,
    aten.relu6.default,
    aten.hardtanh.default,
    aten.clamp.default,
    aten.clamp_min.default,
    aten.clamp_max.default,
)
def clamp(w: Writer, call: Call) -> Value:
    x, args = call.value("self"), call.args
    if call.step is not None:
        qp = call.step.out_qparams
        bounds = alone_bounds(call.step.attrs, qp)
        edges = zip(("MAXIMUM", "MINIMUM"), bounds, (qp.qmin, qp.qmax), strict=True)
        limits = [(code, torch.tensor(edge)) for code, edge, full in edges if edge != full]
        return limited(w, x, limits, qp, call.name) if limits else x
    low, high = args.get("min", args.get("min_val")), args.get("max", args.get("max_val"))
    if call.node.target is aten.relu.default or (low, high) == (0, None):
        return elementwise(w, call, "RELU")
    if call.node.target is aten.relu6.default or (low, high) == (0, 6):
        return elementwise(w, call, "RELU6")
    form = x.preferred()
    tensor = read(w, x, form)
    for code, limit in (("MAXIMUM", low), ("MINIMUM", high)):
        if limit is not None:
            tensor = w.op(code, [tensor, w.number(limit, tensor.dtype)], tensor.shape)
    return call.result(tensor, form)


@lowerings.op(aten.clamp.Tensor)
def clamp_by_tensors(w: Writer, call: Call) -> Value:
    """clamp(x, min, max): the larger of x and min, then the smaller of that and max; integers: `bound` does it."""
    x = call.value("self")
    if call.step is not None:
        return x
    form = x.preferred()
    tensor = read(w, x, form)
    for code, key in (("MAXIMUM", "min"), ("MINIMUM", "max")):
        if call.args[key] is not None:
            limit = operand(w, call.args[key], form, tensor.dtype)
            tensor = w.op(code, [tensor, limit], tensor.shape)
    return call.result(tensor, form)


@lowerings.op(
    aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther, aten.where.Scalar, check=_known_dtype
)
def where(w: Writer, call: Call) -> Value:
    return _select(w, call, call.value("condition"), call.args["self"], call.args["other"])


@lowerings.op(aten.masked_fill.Scalar)
def masked_fill(w: Writer, call: Call) -> Value:
    return _select(w, call, call.value("mask"), call.args["value"], call.value("self"))


def _select(w: Writer, call: Call, mask: Value, left: Any, right: Any) -> Value:
    kind, rank = dtype(call.node), len(call.sizes)
    form = common_form([side for side in (mask, left, right) if isinstance(side, Value)], rank)
    tensors = [aligned(w, mask, form), *(operand(w, side, form, kind) for side in (left, right))]
    made = w.op("SELECT_V2", tensors, in_form(call.sizes, form), call.name, dtype=kind)
    return call.result(made, form)


@lowerings.op(
    aten.to.dtype,
    aten.to.dtype_layout,
    aten._to_copy.default,
    aten.to.device,
    aten.type_as.default,
    check=_known_dtype,
)
def cast(w: Writer, call: Call) -> Value:
    x, kind = call.value("self"), dtype(call.node)
    form = x.preferred()
    return call.result(as_kind(w, read(w, x, form), kind), form)
