import math
import re

import numpy as np
import pytest
import torch
from fxedge.compiler.quant.qparams import (
    SMALLEST_SCALE,
    QParams,
    QSpec,
    choose_channel_qparams,
    choose_qparams,
    dequantize,
    fake_quantize,
    quantize,
)
from hypothesis import assume, given
from hypothesis import strategies as st

UINT8 = QSpec(0, 255, torch.uint8)
INT8 = QSpec(-128, 127, torch.int8)
SYMMETRIC = QSpec(-127, 127, torch.int8, symmetric=True)
SPECS = [UINT8, INT8, SYMMETRIC, QSpec(-128, 127, torch.int8, symmetric=True), QSpec(0, 127, torch.uint8)]
INT32 = (-(2**31), 2**31 - 1, torch.int32)

any_spec = st.sampled_from(SPECS)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
usual = st.floats(-(2.0**60), 2.0**60, width=32).filter(lambda x: x == 0 or abs(x) > 2.0**-60)


def per_tensor(scale: float, zero_point: int = 0, qmin: int = -128, qmax: int = 127) -> QParams:
    return QParams((scale,), (zero_point,), qmin, qmax, torch.int8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: per_tensor(0.0), "scales must be positive and finite in float32, got (0.0,)"),
        (lambda: per_tensor(-1.0), "scales must be positive and finite in float32, got (-1.0,)"),
        (lambda: per_tensor(math.nan), "scales must be positive and finite in float32, got (nan,)"),
        (lambda: per_tensor(1e39), "scales must be positive and finite in float32, got (1e+39,)"),
        (lambda: per_tensor(1e-50), "scales must be positive and finite in float32, got (1e-50,)"),
        (lambda: QParams((), (), -128, 127, torch.int8), "scales must be positive and finite in float32, got ()"),
        (lambda: QParams((1.0,), (0, 0), -128, 127, torch.int8), "1 scales but 2 zero points"),
        (lambda: QParams((1.0, 1.0), (0, 0), -128, 127, torch.int8), "2 scales need an axis"),
        (lambda: per_tensor(1.0, 5, -4, 4), "zero points (5,) outside [-4, 4]"),
        (lambda: QParams((1.0,), (0,), 0, 256, torch.uint8), "[0, 256] does not fit torch.uint8"),
        (lambda: QParams((1.0,), (0,), 7, 7, torch.uint8), "[7, 7] does not fit torch.uint8"),
        (
            lambda: QParams((1.0,), (0,), 0, 9, torch.int16),
            "torch.int16 is not a quantized type; allowed: int8, uint8, int32",
        ),
        (lambda: QSpec(-129, 127, torch.int8), "[-129, 127] does not fit torch.int8"),
        (
            lambda: QSpec(0, 255, torch.uint8, symmetric=True),
            "a symmetric range needs integers of both signs, got [0, 255]",
        ),
        (lambda: choose_qparams(0.0, 1e300, UINT8), "scales must be positive and finite in float32, got (inf,)"),
        (lambda: choose_qparams(math.nan, 1.0, UINT8), "range [nan, 1.0] is not finite"),
        (lambda: choose_qparams(0.0, math.inf, UINT8), "range [0.0, inf] is not finite"),
        (
            lambda: choose_channel_qparams(torch.tensor([-1.0, -math.inf]), torch.ones(2), SYMMETRIC, 0),
            "range [-inf, 1.0] is not finite",
        ),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


def test_scales_are_float32():
    assert per_tensor(0.1).scale == (float(np.float32(0.1)),)
    assert per_tensor(0.1) == per_tensor(float(np.float32(0.1)))
    assert hash(per_tensor(0.1)) == hash(per_tensor(float(np.float32(0.1))))
    assert per_tensor(0.1).scale_tensor().dtype == torch.float32


@given(finite, finite, any_spec)
def test_zero_is_exact_and_the_range_is_covered_to_half_a_scale(a, b, spec):
    low, high = min(a, b), max(a, b)
    qp = choose_qparams(low, high, spec)
    assert qp.qmin <= qp.zero_point[0] <= qp.qmax
    assert quantize(torch.zeros(1), qp).item() == qp.zero_point[0]
    assert dequantize(torch.tensor([qp.zero_point[0]]), qp).item() == 0.0
    scale = qp.scale[0]
    slack = scale * 0.5 * (1 + 1e-3)  # the rounding of the scale to float32, times 255
    assert (qp.qmin - qp.zero_point[0]) * scale <= min(low, 0.0) + slack
    assert (qp.qmax - qp.zero_point[0]) * scale >= max(high, 0.0) - slack


@given(usual, usual, st.sampled_from([UINT8, INT8]))
def test_no_integer_is_wasted(a, b, spec):
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    assume(high > low)
    qp = choose_qparams(low, high, spec)
    assert qp.scale[0] == pytest.approx((high - low) / (spec.qmax - spec.qmin), rel=1e-6)


@given(usual, usual)
def test_symmetric_ranges_reach_the_larger_magnitude(a, b):
    qp = choose_qparams(min(a, b), max(a, b), SYMMETRIC)
    largest = max(abs(a), abs(b))
    assert qp.zero_point == (0,)
    assert qp.scale[0] == (float(np.float32(largest / 127)) if largest else 1.0)


def test_symmetric_with_one_more_negative_integer_covers_both_ends():
    spec = QSpec(-128, 127, torch.int8, symmetric=True)
    assert choose_qparams(-1.28, 0.5, spec).scale[0] == pytest.approx(0.01)
    assert choose_qparams(-1.27, 1.27, spec).scale[0] == pytest.approx(0.01)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("bound", [0.0, 1e-45, 1e-38, SMALLEST_SCALE])
def test_ranges_without_a_usable_scale_count_as_zeros(bound, spec):
    qp = choose_qparams(-bound, bound, spec)
    assert qp.scale == (1.0,)
    assert quantize(torch.tensor([-bound, 0.0, bound]), qp).tolist() == [qp.zero_point[0]] * 3


def test_the_zero_point_belongs_to_the_float32_scale():
    """-low / scale is just above 80.5 with the exact scale, and just below with the float32 one."""
    low, high = -80.500001 * 0.3, 174.499999 * 0.3
    exact = (high - low) / 255
    rounded = float(np.float32(exact))
    assert (round(-low / exact), round(-low / rounded)) == (81, 80)
    assert choose_qparams(low, high, UINT8).zero_point == (80,)


@given(st.lists(finite, min_size=1, max_size=8), finite, finite, any_spec)
def test_quantization_error_is_at_most_half_a_scale_inside_the_range(values, a, b, spec):
    qp = choose_qparams(min(a, b), max(a, b), spec)
    x = torch.tensor(values)
    low, high = ((q - qp.zero_point[0]) * qp.scale[0] for q in (qp.qmin, qp.qmax))
    x = x[(x.double() >= low) & (x.double() <= high)]
    error = (dequantize(quantize(x, qp), qp).double() - x.double()).abs()
    assert (error <= qp.scale[0] * (0.5 + 1e-4)).all()


@given(finite, finite, any_spec)
def test_integers_survive_dequantize_and_quantize(a, b, spec):
    qp = choose_qparams(min(a, b), max(a, b), spec)
    integers = torch.arange(spec.qmin, spec.qmax + 1, dtype=torch.int32)
    real = dequantize(integers, qp)
    assume(bool(torch.isfinite(real).all()))  # a range as wide as float32 itself may end beyond it
    assert torch.equal(quantize(real, qp), integers)


@given(st.lists(finite, min_size=1, max_size=8), usual, usual, any_spec)
def test_quantize_equals_the_onnx_formula(values, a, b, spec):
    qp = choose_qparams(min(a, b), max(a, b), spec)
    x = np.array(values, dtype=np.float32)
    with np.errstate(over="ignore"):
        expected = np.clip(np.rint(x / np.float32(qp.scale[0])) + qp.zero_point[0], qp.qmin, qp.qmax)
    actual = quantize(torch.from_numpy(x), qp)
    assert actual.dtype == torch.int32
    np.testing.assert_array_equal(actual.numpy(), expected)


def test_halves_go_to_even_and_the_ends_clamp():
    qp = QParams((0.5,), (10,), 0, 20, torch.uint8)
    x = torch.tensor([0.25, 0.75, 1.25, -0.25, -0.75, 1e30, -1e30, math.inf, -math.inf])
    assert quantize(x, qp).tolist() == [10, 12, 12, 10, 8, 20, 0, 20, 0]


def test_per_channel_parameters_follow_the_axis():
    qp = choose_channel_qparams(torch.tensor([-1.27, 0.0]), torch.tensor([0.0, 2.54]), SYMMETRIC, axis=1)
    assert qp.per_channel
    assert qp.axis == 1
    x = torch.tensor([[[0.05, 0.1]], [[0.1, 0.2]]]).movedim(-1, 1)
    integers = quantize(x, qp)
    assert integers.shape == x.shape
    assert integers.flatten().tolist() == [5, 5, 10, 10]
    torch.testing.assert_close(dequantize(integers, qp), x)


def test_int32_integers_keep_all_their_digits():
    qp = QParams((1.0,), (0,), *INT32)
    x = torch.tensor([2.0**30 - 64, -(2.0**31), 2.0**31, -1e20])
    assert quantize(x, qp).tolist() == [2**30 - 64, -(2**31), 2**31 - 1, -(2**31)]
    third = QParams((1 / 3,), (0,), *INT32)
    assert quantize(torch.tensor([12345678.0]), third).item() == round(12345678.0 / third.scale[0])


def test_scalars_have_no_axes():
    qp = choose_qparams(0.0, 2.55, UINT8)
    assert quantize(torch.tensor(1.0), qp).shape == ()
    assert dequantize(torch.tensor(100), qp).item() == pytest.approx(1.0)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(("low", "high"), [(-1.7, 2.9), (0.0, 6.0), (-5.3, 0.0), (-3e-4, 1e-5), (0.0, 0.0)])
def test_fake_quantize_is_quantize_and_dequantize_but_for_ties(low, high, spec):
    qp = choose_qparams(low, high, spec)
    scale = qp.scale[0]
    x = torch.linspace(1.5 * low - scale, 1.5 * high + scale, 10007)
    off = (fake_quantize(x, qp) - dequantize(quantize(x, qp), qp)).abs()
    steps = x.double() / scale
    tie = (steps - steps.floor() - 0.5).abs() < 1e-4
    assert not off[~tie].any()
    assert off.max() <= scale * (1 + 1e-6)


def test_fake_quantize_sends_halves_to_even_and_clamps():
    qp = QParams((0.5,), (10,), 0, 20, torch.uint8)
    x = torch.tensor([[0.25, 0.75, 1.25, -0.25], [-0.75, 1e30, -1e30, 0.6]])
    assert fake_quantize(x, qp).tolist() == [[0.0, 1.0, 1.0, 0.0], [-1.0, 5.0, -5.0, 0.5]]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(("low", "high"), [(-1.7, 2.9), (0.0, 6.0), (-3e-4, 1e-5), (-1e30, 1e30)])
def test_fake_quantize_is_that_of_torch(low, high, spec):
    qp = choose_qparams(low, high, spec)
    x = torch.cat([torch.randn(9999) * high, torch.tensor([0.0, low, high, torch.inf, -torch.inf])])
    given = x.clone()
    torchs = torch.fake_quantize_per_tensor_affine(x, qp.scale[0], qp.zero_point[0], qp.qmin, qp.qmax)
    assert torch.equal(fake_quantize(x, qp), torchs)
    assert torch.equal(x, given)
    assert fake_quantize(torch.tensor(high), qp).shape == ()


def test_fake_quantize_takes_no_channels():
    qp = QParams((1.0, 2.0), (0, 0), -128, 127, torch.int8, axis=0)
    with pytest.raises(ValueError, match=r"^fake_quantize takes per-tensor parameters$"):
        fake_quantize(torch.zeros(2, 3), qp)
