"""The bounds of an integer step: fused into its operator where that means the same integers, else operators after.

TFLite's own integer ReLU is a hundred times slower than Maximum (112 × 112 × 16: 6.2 ms against 0.06 ms, LiteRT
2.3 on x86-64; XNNPACK runs neither on int8 alone), so it is not used.
"""

from __future__ import annotations

import math

import torch

from ...compiler.ir.ops import aten
from ...compiler.quant.program import IntegerStep
from ...compiler.quant.qparams import QParams
from .values import Value, constant_value, held, read
from .writer import Writer

NONE, RELU, RELU_N1_TO_1, RELU6 = 0, 1, 2, 3
_BOUNDS = {RELU: (0.0, math.inf), RELU6: (0.0, 6.0), RELU_N1_TO_1: (-1.0, 1.0)}

# Ops whose operator has a fused activation.
_FUSING = frozenset(
    {
        aten.conv1d.default,
        aten.conv2d.default,
        aten.linear.default,
        aten.add.Tensor,
        aten.sub.Tensor,
        aten.mul.Tensor,
    }
)


def is_bounded(step: IntegerStep) -> bool:
    """Whether a step's integers have narrower bounds than their dtype."""
    full = step.clamp == (step.out_qparams.qmin, step.out_qparams.qmax)
    return not full or step.channel_low is not None or step.channel_high is not None


def fused_code(step: IntegerStep) -> int:
    """The operator's own activation that gives the step's bounds; `NONE` if there is no such."""
    plain = step.channel_low is None and step.channel_high is None
    if not (is_bounded(step) and plain and step.anchor.target in _FUSING):
        return NONE
    codes = [code for code, (low, high) in _BOUNDS.items() if _is_clamp(step.clamp, low, high, step.out_qparams)]
    return codes[0] if codes else NONE


def _is_clamp(clamp: tuple[int, int], low: float, high: float, qp: QParams) -> bool:
    """Whether [low, high] becomes `clamp` however a kernel rounds it."""
    return all(_integers(bound, qp) == {edge} for bound, edge in zip((low, high), clamp, strict=True))


def _integers(bound: float, qp: QParams) -> set[int]:
    if math.isinf(bound):
        return {qp.qmax if bound > 0 else qp.qmin}
    places = (bound / qp.scale[0], bound * (1.0 / qp.scale[0]))
    rounded = {math.floor(place + 0.5 + nudge) for place in places for nudge in (-1e-4, 1e-4)}
    return {min(max(value + qp.zero_point[0], qp.qmin), qp.qmax) for value in rounded}


def bound(w: Writer, step: IntegerStep, integers: Value) -> Value:
    """The step's bounds as Maximum and Minimum; the last operator is named as the step."""
    qp = step.out_qparams
    low, high = step.clamp
    limits: list[tuple[str, torch.Tensor]] = []
    if low != qp.qmin or step.channel_low is not None:
        limits.append(("MAXIMUM", torch.tensor(low) if step.channel_low is None else step.channel_low))
    if high != qp.qmax or step.channel_high is not None:
        limits.append(("MINIMUM", torch.tensor(high) if step.channel_high is None else step.channel_high))
    return limited(w, integers, limits, qp, step.name)


def limited(w: Writer, integers: Value, limits: list[tuple[str, torch.Tensor]], qp: QParams, name: str) -> Value:
    """`integers` through each of `limits`; the last operator is called `name`."""
    form = integers.preferred()
    tensor = read(w, integers, form)
    for left, (code, limit) in zip(range(len(limits) - 1, -1, -1), limits, strict=True):
        widened = limit.reshape((1,) * (integers.rank - limit.ndim) + tuple(limit.shape)).to(torch.int8)
        operand = read(w, constant_value(widened, f"{name}/limit", qp), form)
        label = f"{name}/{code.lower()}" if left else name
        tensor = w.op(code, [tensor, operand], tensor.shape, label, qparams=qp)
    return held(tensor, integers.sizes, form)
