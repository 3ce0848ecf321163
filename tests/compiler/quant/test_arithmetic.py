from typing import Any

import numpy as np
import pytest
import torch
from fxedge.compiler.quant import arithmetic
from fxedge.compiler.quant.arithmetic import (
    KernelCall,
    accumulate_conv,
    accumulate_conv_transpose,
    accumulate_linear,
    accumulate_matmul,
    centered,
    channel_shape,
    largest_sum,
    lookup,
)
from fxedge.compiler.quant.qparams import QParams, dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

CONV = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
CONV3D = {"stride": [1] * 3, "padding": [1] * 3, "dilation": [1] * 3, "groups": 2}


def uint8(zero_point: int, scale: float = 0.5) -> QParams:
    return QParams((scale,), (zero_point,), 0, 255, torch.uint8)


def integers(low: int, high: int, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high + 1, shape, generator=generator, dtype=torch.int32)


def call(*inputs: Tensor, weight: Tensor | None = None, zero_point: int = 100, **attrs: Any) -> KernelCall:
    qp = uint8(zero_point)
    return KernelCall(inputs, (qp,) * len(inputs), uint8(7, 0.25), (0, 255), attrs, weight)


def direct_conv(x: np.ndarray, weight: np.ndarray, attrs: dict[str, Any]) -> np.ndarray:
    """Sums of a convolution of any number of axes in int64, by its definition."""
    spatial, groups = weight.ndim - 2, attrs["groups"]
    stride, padding, dilation = attrs["stride"], attrs["padding"], attrs["dilation"]
    x = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)])
    reach = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    sizes = [(n - r) // s + 1 for n, r, s in zip(x.shape[2:], reach, stride, strict=True)]
    out = np.zeros((x.shape[0], weight.shape[0], *sizes), dtype=np.int64)
    per_group = weight.shape[0] // groups
    for at in np.ndindex(*sizes):
        window = tuple(slice(i * s, i * s + r, d) for i, s, r, d in zip(at, stride, reach, dilation, strict=True))
        for o in range(weight.shape[0]):
            first = o // per_group * weight.shape[1]
            patch = x[(slice(None), slice(first, first + weight.shape[1]), *window)]
            out[(slice(None), o, *at)] = (patch * weight[o]).sum(tuple(range(1, spatial + 2)))
    return out


@pytest.mark.parametrize(
    ("x_shape", "weight_shape", "attrs"),
    [
        ((2, 4, 9), (6, 4, 3), {"stride": [2], "padding": [1], "dilation": [1], "groups": 1}),
        ((2, 4, 7, 6), (6, 4, 3, 2), CONV),
        ((1, 4, 7, 7), (4, 1, 3, 3), {"stride": [2, 1], "padding": [1, 2], "dilation": [1, 2], "groups": 4}),
        (
            (1, 4, 4, 5, 4),
            (2, 2, 2, 3, 2),
            {"stride": [1] * 3, "padding": [1] * 3, "dilation": [1] * 3, "groups": 2},
        ),
    ],
    ids=["1d", "2d", "depthwise", "3d"],
)
def test_conv_sums_are_those_of_the_definition(x_shape, weight_shape, attrs):
    """Padding adds the zero point, which is 0 after centering."""
    x, weight = integers(0, 255, *x_shape), integers(-127, 127, *weight_shape, seed=1)
    actual = accumulate_conv(call(x, weight=weight, **attrs))
    assert actual.dtype == torch.float32
    np.testing.assert_array_equal(actual, direct_conv(x.numpy().astype(np.int64) - 100, weight.numpy(), attrs))


def test_linear_and_matmul_sums():
    x, weight = integers(0, 255, 2, 3, 40), integers(-127, 127, 5, 40, seed=1)
    expected = (x.numpy().astype(np.int64) - 100) @ weight.numpy().astype(np.int64).T
    np.testing.assert_array_equal(accumulate_linear(call(x, weight=weight)), expected)
    y = integers(0, 255, 2, 40, 3, seed=2)
    expected = (x.numpy().astype(np.int64) - 100) @ (y.numpy().astype(np.int64) - 100)
    np.testing.assert_array_equal(accumulate_matmul(call(x, y)), expected)


def test_conv_transpose_sums_are_the_adjoint_of_the_conv():
    """<conv_transpose(x), y> == <x, conv(y)>, with integers far beyond what float32 adds exactly."""
    attrs = {"stride": [2, 2], "padding": [1, 1], "dilation": [1, 1], "groups": 2}
    weight = integers(-127, 127, 4, 3, 3, 3)
    x = integers(0, 255, 2, 4, 5, 5)
    up = accumulate_conv_transpose(call(x, weight=weight, output_padding=[0, 0], **attrs))
    y = integers(0, 255, *up.shape, seed=3)
    down = accumulate_conv(call(y, weight=weight, **attrs))
    assert up.shape == (2, 6, 9, 9)
    left = (up.long() * (y.long() - 100)).sum()
    assert left == ((x.long() - 100) * down.long()).sum()


def odd_sums(count: int) -> tuple[Tensor, Tensor]:
    """Inputs and weights at their largest whose sum is odd and above 2**24."""
    weight = torch.full((1, count), 127, dtype=torch.int32)
    x = torch.full((1, count), 255, dtype=torch.int32)
    assert count % 2
    assert 127 * 255 * count > 2**24
    return x, weight


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_sums_beyond_float32_are_exact(kind, monkeypatch):
    x, weight = odd_sums(4095)

    def total() -> int:
        if kind == "linear":
            return int(accumulate_linear(call(x, weight=weight, zero_point=0)))
        attrs = {"stride": [1], "padding": [0], "dilation": [1], "groups": 1}
        return int(accumulate_conv(call(x[..., None], weight=weight[..., None], zero_point=0, **attrs)))

    assert total() == 127 * 255 * 4095
    monkeypatch.setattr(arithmetic, "_EXACT_IN_FLOAT32", 2**40)
    assert total() != 127 * 255 * 4095


def test_matmul_beyond_float32_is_exact():
    """256 products of 255 · 255 stay below 2**24, 4095 do not."""
    x = torch.full((1, 4095), 255, dtype=torch.int32)
    assert int(accumulate_matmul(call(x, x.T, zero_point=0))) == 255 * 255 * 4095
    few = x[:, :256]
    narrow = accumulate_matmul(call(few, few.T, zero_point=0))
    assert narrow.dtype == torch.float32
    assert int(narrow) == 255 * 255 * 256


def test_the_largest_sum_is_that_of_the_worst_channel():
    weight = torch.zeros(2, 1024, dtype=torch.int32)
    weight[1] = -127
    assert largest_sum(weight, 255) == 127 * 255 * 1024
    assert largest_sum(weight, 255, out_axis=1) == 127 * 255
    assert (
        largest_sum(weight, 255, bias=torch.tensor([3, -(2**31)], dtype=torch.int32)) == 127 * 255 * 1024 + 2**31
    )


def odd_sums_with_bias() -> tuple[Tensor, Tensor, Tensor]:
    """An odd sum that only the bias takes above 2**24."""
    weight, x = torch.ones(1, 3, dtype=torch.int32), torch.tensor([[255, 255, 253]], dtype=torch.int32)
    return x, weight, torch.tensor([2**24], dtype=torch.int32)


def test_the_bias_enters_the_sums_exactly(monkeypatch):
    x, weight, bias = odd_sums_with_bias()
    assert int(accumulate_linear(call(x, weight=weight, zero_point=0), bias)) == 2**24 + 763
    attrs = {"stride": [1], "padding": [0], "dilation": [1], "groups": 1}
    conv = call(x[..., None], weight=weight[..., None], zero_point=0, **attrs)
    assert int(accumulate_conv(conv, bias)) == 2**24 + 763
    up = call(x[..., None], weight=weight.T[..., None], zero_point=0, output_padding=[0], **attrs)
    assert int(accumulate_conv_transpose(up, bias)) == 2**24 + 763
    monkeypatch.setattr(arithmetic, "_EXACT_IN_FLOAT32", 2**40)
    assert int(accumulate_linear(call(x, weight=weight, zero_point=0), bias)) != 2**24 + 763


def test_a_sum_beyond_int32_wraps_around():
    x, weight, _ = odd_sums_with_bias()
    bias = torch.tensor([2**31 - 1], dtype=torch.int32)
    assert int(accumulate_linear(call(x, weight=weight, zero_point=0), bias)) == 763 - 1 - 2**31


def test_a_layer_reads_integers_of_any_type():
    x, weight = integers(0, 255, 2, 40), integers(-127, 127, 5, 40, seed=1)
    narrow = accumulate_linear(call(x.to(torch.uint8), weight=weight))
    assert torch.equal(narrow, accumulate_linear(call(x, weight=weight)))


@pytest.mark.parametrize("zero_point", [0, 100, 255])
def test_the_largest_centered_input_decides(zero_point):
    """1024 weights of 64: exact in float32 up to inputs of 255, whatever side of the zero point they lie on."""
    x = torch.tensor([0, 255], dtype=torch.int32).repeat(512)[None]
    weight = torch.full((1, 1024), 64, dtype=torch.int32)
    expected = int(((x.long() - zero_point) * 64).sum())
    assert int(accumulate_linear(call(x, weight=weight, zero_point=zero_point))) == expected


def test_centered_takes_off_each_inputs_zero_point():
    x, y = torch.tensor([0, 255], dtype=torch.int32), torch.tensor([3], dtype=torch.int32)
    both = KernelCall((x, y), (uint8(128), uint8(3)), uint8(0), (0, 255), {})
    assert centered(both).tolist() == [-128, 127]
    assert centered(both, 1).tolist() == [0]


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 127), st.integers(128, 255))
def test_lookup_is_dequantize_function_quantize_clamp(in_zero, out_zero, low, high):
    qp, out = uint8(in_zero, 0.03), uint8(out_zero, 0.01)
    x = torch.arange(256, dtype=torch.int32).reshape(16, 16)
    kernel = KernelCall((x,), (qp,), out, (low, high), {})
    actual = lookup(kernel, torch.tanh, quantize)
    assert torch.equal(actual, quantize(torch.tanh(dequantize(x, qp)), out).clamp(low, high))


def test_lookup_of_signed_and_narrowed_integers():
    qp = QParams((0.5,), (0,), -4, 3, torch.int8)
    x = torch.tensor([-4, 0, 3], dtype=torch.int32)
    kernel = KernelCall((x,), (qp,), uint8(10), (0, 255), {})
    assert lookup(kernel, lambda value: value * 2, quantize).tolist() == [2, 10, 16]


def test_channel_shape():
    values = torch.arange(3.0)
    assert channel_shape(values, 4, 1).shape == (1, 3, 1, 1)
    assert channel_shape(values, 2, -1).shape == (1, 3)
    assert channel_shape(torch.ones(1), 4, 1).shape == (1, 1, 1, 1)
