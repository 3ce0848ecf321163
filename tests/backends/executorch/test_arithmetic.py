"""Properties of XNNPACK's arithmetic that need no runtime."""

from __future__ import annotations

import pytest
import torch
from fxedge.backends.executorch import arithmetic
from fxedge.backends.xnnpack import arithmetic as xnnpack
from fxedge.compiler.quant.arithmetic import KernelCall
from fxedge.compiler.quant.qparams import QParams, dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st


def int8(scale: float, zero_point: int = 0) -> QParams:
    return QParams((scale,), (zero_point,), -128, 127, torch.int8)


scales = st.floats(2**-12, 2.0)
points = st.integers(-128, 127)


# beyond 2**21 three roundings to 24 bits can move an integer; `stored_bias` is what the runtime has in any case
@given(scale=scales, weight_scale=scales, bias=st.lists(st.integers(-(2**21), 2**21), min_size=1, max_size=8))
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_bias_comes_back_from_the_float_that_stands_for_it(
    per_channel: bool, scale: float, weight_scale: float, bias: list[int]
) -> None:
    count = len(bias) if per_channel else 1
    qp = QParams((weight_scale,) * count, (0,) * count, -127, 127, torch.int8, 0 if per_channel else None)
    stored = torch.tensor(bias, dtype=torch.int32)
    assert torch.equal(arithmetic.stored_bias(stored, int8(scale), qp), stored)


@given(a=scales, b=scales, out=scales, zero_points=st.tuples(points, points, points))
def test_fixed_point_sums_stay_within_one_of_the_real_ones(
    a: float, b: float, out: float, zero_points: tuple[int, int, int]
) -> None:
    if not 2**-9 < max(a, b) / out < 2**7:
        return
    qa, qb, qo = (int8(scale, z) for scale, z in zip((a, b, out), zero_points, strict=True))
    x = torch.arange(-128, 128, dtype=torch.int32)
    y = x.flip(0).roll(31)
    for kernel, sign in ((xnnpack.add, 1), (xnnpack.sub, -1)):
        found = kernel(KernelCall((x, y), (qa, qb), qo, (-128, 127), {}))
        real = quantize(dequantize(x, qa) + sign * dequantize(y, qb), qo)
        assert int((found - real).abs().max()) <= 1


@given(scale=scales, zero_point=points)
def test_integers_come_back_from_the_floats_that_stand_for_them(scale: float, zero_point: int) -> None:
    x, qp = torch.arange(-128, 128, dtype=torch.int32), int8(scale, zero_point)
    assert torch.equal(xnnpack.quantize(dequantize(x, qp), qp), x)
