"""Quantization parameters as immutable values.

`QSpec` says what integers a tensor may take; `QParams` says which real numbers they stand for:
`real = (integer - zero_point) * scale`, with `scale` a float32. Integers come from real numbers by
`clamp(rint(real / scale) + zero_point, qmin, qmax)`, halves to even (ONNX QuantizeLinear, operator set 19).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_DTYPES = ((torch.int8, -128, 127), (torch.uint8, 0, 255), (torch.int32, -(2**31), 2**31 - 1))


@dataclass(frozen=True, slots=True)
class QSpec:
    """The integers that a tensor may take, and how its parameters are chosen.

    `symmetric` puts the zero point at 0; `per_channel` asks for one scale for each index of the axis that the op
    names as its output channels.

    Raises:
        ValueError: [qmin, qmax] does not fit `dtype`, or is symmetric but lacks integers of one sign.
    """

    qmin: int
    qmax: int
    dtype: torch.dtype
    symmetric: bool = False
    per_channel: bool = False

    def __post_init__(self) -> None:
        _check_range(self.qmin, self.qmax, self.dtype)
        if self.symmetric and not self.qmin < 0 < self.qmax:
            raise ValueError(f"a symmetric range needs integers of both signs, got [{self.qmin}, {self.qmax}]")


@dataclass(frozen=True, slots=True)
class QParams:
    """Affine parameters of one tensor. Equal values mean the same integers.

    `scale` and `zero_point` have one entry (per tensor, `axis` None) or one for each index of `axis`.

    Raises:
        ValueError: a scale is not a positive finite float32, lengths disagree, or a zero point lies
            outside [qmin, qmax].
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    qmin: int
    qmax: int
    dtype: torch.dtype
    axis: int | None = None

    def __post_init__(self) -> None:
        f32 = tuple(torch.tensor(self.scale, dtype=torch.float32).tolist())
        _check_range(self.qmin, self.qmax, self.dtype)
        if not f32 or not all(s > 0 and math.isfinite(s) for s in f32):
            raise ValueError(f"scales must be positive and finite in float32, got {self.scale}")
        if len(self.zero_point) != len(f32):
            raise ValueError(f"{len(f32)} scales but {len(self.zero_point)} zero points")
        if self.axis is None and len(f32) != 1:
            raise ValueError(f"{len(f32)} scales need an axis")
        if not all(self.qmin <= z <= self.qmax for z in self.zero_point):
            raise ValueError(f"zero points {self.zero_point} outside [{self.qmin}, {self.qmax}]")
        object.__setattr__(self, "scale", f32)

    @property
    def per_channel(self) -> bool:
        return self.axis is not None

    def scale_tensor(self) -> Tensor:
        """float32 [n]: n is 1 or the size of `axis`."""
        return torch.tensor(self.scale, dtype=torch.float32)

    def zero_point_tensor(self) -> Tensor:
        """int64 [n]."""
        return torch.tensor(self.zero_point, dtype=torch.int64)


def choose_qparams(low: float, high: float, spec: QSpec) -> QParams:
    """Per-tensor parameters covering [low, high] to half a scale; zero is always exactly representable.

    Raises:
        ValueError: a bound is not finite, or too large for a float32 scale.
    """
    scale, zero_point = _scale_and_zero_point(low, high, spec)
    return QParams((scale,), (zero_point,), spec.qmin, spec.qmax, spec.dtype)


def choose_channel_qparams(low: Tensor, high: Tensor, spec: QSpec, axis: int) -> QParams:
    """One scale for each channel: `low` and `high` are float [channels], `axis` the tensor's channel axis.

    Raises:
        ValueError: as `choose_qparams`.
    """
    pairs = [_scale_and_zero_point(lo, hi, spec) for lo, hi in zip(low.tolist(), high.tolist(), strict=True)]
    scales, zero_points = zip(*pairs, strict=True)
    return QParams(scales, zero_points, spec.qmin, spec.qmax, spec.dtype, axis)


def quantize(x: Tensor, qp: QParams) -> Tensor:
    """float -> int32 by x / scale, halves to even, clamped to [qmin, qmax]. Shape is kept.

    Done in float32, as runtimes do; in float64 for int32 parameters (a bias), which have more digits.
    """
    scale, zero_point = _broadcast(qp, x.ndim)
    if qp.dtype is torch.int32:
        x, scale = x.double(), scale.double()
    return (torch.round(x / scale) + zero_point).clamp(qp.qmin, qp.qmax).to(torch.int32)


def dequantize(q: Tensor, qp: QParams) -> Tensor:
    """Integers -> float32: (q - zero_point) * scale."""
    scale, zero_point = _broadcast(qp, q.ndim)
    return (q.to(torch.int32) - zero_point).to(torch.float32) * scale


def fake_quantize(x: Tensor, qp: QParams) -> Tensor:
    """`dequantize(quantize(x, qp), qp)` in one step for per-tensor parameters, a few times as fast; not to the
    last bit, since it multiplies by 1 / scale.

    Raises:
        ValueError: the parameters are per channel.
    """
    if qp.per_channel:
        raise ValueError("fake_quantize takes per-tensor parameters")
    # what torch.fake_quantize_per_tensor_affine gives, but for NaN, which stays; it takes 25 times as long on CPUs
    scale, zero_point = qp.scale_tensor()[0], qp.zero_point[0]
    steps = (x * (1 / scale)).round_()
    return steps.clamp_(qp.qmin - zero_point, qp.qmax - zero_point).mul_(scale)


# A scale below this (tiny / 2**-16) makes requantization multipliers denormal, on which runtimes disagree.
SMALLEST_SCALE = 2.0**-110


def _scale_and_zero_point(low: float, high: float, spec: QSpec) -> tuple[float, int]:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"range [{low}, {high}] is not finite")
    low, high = min(low, 0.0), max(high, 0.0)
    if spec.symmetric:
        scale = max(low / spec.qmin, high / spec.qmax)
        return (scale, 0) if scale > SMALLEST_SCALE else (1.0, 0)
    scale = _f32((high - low) / (spec.qmax - spec.qmin))
    if scale <= SMALLEST_SCALE:
        return 1.0, min(max(0, spec.qmin), spec.qmax)
    return scale, min(max(spec.qmin - round(low / scale), spec.qmin), spec.qmax)


def _f32(value: float) -> float:
    return torch.tensor(value, dtype=torch.float32).item()


def _broadcast(qp: QParams, ndim: int) -> tuple[Tensor, Tensor]:
    shape = [1] * ndim
    if qp.axis is not None:
        shape[qp.axis] = -1
    return qp.scale_tensor().reshape(shape), qp.zero_point_tensor().to(torch.int32).reshape(shape)


def _check_range(qmin: int, qmax: int, dtype: torch.dtype) -> None:
    for known, low, high in _DTYPES:
        if dtype is known:
            if not low <= qmin < qmax <= high:
                raise ValueError(f"[{qmin}, {qmax}] does not fit {dtype}")
            return
    raise ValueError(f"{dtype} is not a quantized type; allowed: int8, uint8, int32")
