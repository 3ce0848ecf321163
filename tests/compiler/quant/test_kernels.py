"""The kernels that several runtimes share, against exact rational arithmetic and against torch."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from fxedge.compiler.quant import kernels
from fxedge.compiler.quant.arithmetic import KernelCall
from fxedge.compiler.quant.qparams import QParams, quantize
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F


def _qint8(scale: float, zero_point: int) -> QParams:
    return QParams((scale,), (zero_point,), -128, 127, torch.int8)


IN, OUT = _qint8(0.05, 3), _qint8(0.2, -7)
WEIGHT = QParams((0.01, 0.03), (0, 0), -127, 127, torch.int8, 0)
WHOLE = (-128, 127)


def _integers(*shape: int, seed: int = 0, low: int = -128, high: int = 128) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int32)


def _call(*inputs: Tensor, clamp: tuple[int, int] = WHOLE, **attrs: object) -> KernelCall:
    return KernelCall(inputs, (IN,) * len(inputs), OUT, clamp, attrs)


def _f32(value: float) -> Fraction:
    return Fraction(torch.tensor(value, dtype=torch.float32).item())


def _half_even(total: int, multiplier: Fraction, zero_point: int) -> int:
    product = _f32(float(_f32(float(total)) * multiplier))
    return min(max(round(product) + zero_point, -128), 127)


@given(total=st.integers(-(2**23), 2**23), scale=st.floats(1e-4, 0.5), zero_point=st.integers(-128, 127))
def test_requantize_rounds_halves_to_even_in_float32(total: int, scale: float, zero_point: int) -> None:
    weight, out = _qint8(scale, 0), _qint8(0.2, zero_point)
    call = KernelCall((), (IN,), out, WHOLE, {}, None, weight)
    multiplier = _f32(float(_f32(float(_f32(IN.scale[0]) * _f32(weight.scale[0]))) / _f32(out.scale[0])))
    found = kernels.requantize(call, torch.tensor([[float(total)]]), 1)
    assert found.item() == _half_even(total, multiplier, zero_point)
    assert found.dtype == torch.int8


def test_a_layer_is_exact_sums_an_integer_bias_and_one_rounding() -> None:
    x, weight = _integers(2, 3, 5, 5), _integers(2, 3, 3, 3, seed=1, low=-127)
    bias = torch.tensor([0.5, -1.0])
    attrs = {"stride": [2, 2], "padding": [1, 1], "dilation": [1, 1], "groups": 1}
    call = KernelCall((x.to(torch.int8),), (IN,), OUT, WHOLE, attrs, weight, WEIGHT, bias)
    sums = F.conv2d((x - 3).double(), weight.double(), None, 2, 1)
    stored = kernels.integer_bias(bias, IN, WEIGHT)
    expected = kernels.requantize(call, (sums + stored[:, None, None]).float(), 1)
    assert torch.equal(kernels.LayerKernels().conv(call), expected)
    assert stored.tolist() == [round(0.5 / (0.05 * 0.01)), round(-1.0 / (0.05 * 0.03))]


def test_a_bias_that_is_integer_already_stays_and_a_large_one_is_clamped() -> None:
    assert kernels.integer_bias(torch.tensor([7, -8]), IN, WEIGHT).tolist() == [7, -8]
    assert kernels.integer_bias(torch.tensor([1e9, -1e9]), IN, WEIGHT).tolist() == [2**31 - 1, -(2**31)]


def test_a_product_of_two_activations() -> None:
    a, b = _integers(4, 7), _integers(4, 7, seed=1)
    found = kernels.product(_call(a, b))
    real = (a - 3).double() * (b - 3).double() * (0.05 * 0.05 / 0.2)
    assert (found - (real.round() - 7).clamp(-128, 127)).abs().max() <= 1
    assert (found == (real.round() - 7).clamp(-128, 127)).float().mean() > 0.9


def test_a_concat_joins_and_clamps() -> None:
    a, b = _integers(2, 3), _integers(2, 4, seed=1)
    assert torch.equal(kernels.concat(_call(a, b, clamp=(-5, 90), dim=1)), torch.cat([a, b], 1).clamp(-5, 90))


@pytest.mark.parametrize(
    ("attrs", "bounds"),
    [
        ({}, (3, 127)),  # relu: from the zero point
        ({"min_val": -1.0, "max_val": 1.0}, (-17, 23)),
        ({"min": None, "max": 0.5}, (-128, 13)),
        ({"min": 100.0, "max": None}, (127, 127)),
    ],
)
def test_bounds_of_a_clamp_as_integers(attrs: dict[str, float | None], bounds: tuple[int, int]) -> None:
    assert kernels.clamp_integers(attrs, IN, quantize) == bounds
    x = torch.arange(-128, 128, dtype=torch.int32)
    assert torch.equal(kernels.clamp_alone(quantize)(_call(x, **attrs)), x.clamp(*bounds))


def test_the_integer_of_a_pad() -> None:
    assert kernels.as_integer(None, IN, quantize) == 3
    assert kernels.as_integer(-1.0, IN, quantize) == -17


def test_tables_are_dequantize_function_quantize() -> None:
    x = torch.arange(-128, 128, dtype=torch.int32)
    found = kernels.table(torch.tanh, quantize)(_call(x))
    assert torch.equal(found, quantize(torch.tanh((x - 3) * 0.05), OUT))
    exact, rough = (kernels.gelu_table(quantize)(_call(x, approximate=how)) for how in ("none", "tanh"))
    assert torch.equal(exact, quantize(F.gelu((x - 3) * 0.05), OUT))
    assert (exact - rough).abs().max() <= 1


@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_max_pooling_on_integers(spatial: int) -> None:
    x = _integers(2, 3, *[6] * spatial)
    attrs = {"kernel_size": [3], "stride": [], "padding": 1, "dilation": 1, "ceil_mode": False}
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[spatial - 1]
    assert torch.equal(kernels.max_pool(_call(x, **attrs)), pool(x.float(), 3, 3, 1).int())


def test_nearest_resize_on_integers() -> None:
    x = _integers(1, 2, 3, 4)
    found = kernels.upsample_nearest(_call(x, output_size=None, scale_factors=[2.0, 2.0]))
    assert torch.equal(found, x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_quantizing_by_the_reciprocal() -> None:
    x, inverse = torch.linspace(-8, 8, 1001), 1 / torch.tensor(OUT.scale[0])
    expected = ((x * inverse).round() - 7).clamp(-128, 127).to(torch.int32)
    assert torch.equal(kernels.quantize_by_reciprocal(x, OUT), expected)
