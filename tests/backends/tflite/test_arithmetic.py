"""Each kernel against LiteRT with the XNNPACK delegate: random, extreme and tie-rich integers.

The flatbuffers are built by hand here, so that neither the program nor the emitter stands between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fxedge.backends.tflite import arithmetic
from fxedge.backends.tflite.writer import Tensor as Stored
from fxedge.backends.tflite.writer import Writer
from fxedge.backends.xnnpack import arithmetic as xnnpack
from fxedge.compiler.quant.arithmetic import KernelCall
from fxedge.compiler.quant.kernels import bias_scale
from fxedge.compiler.quant.qparams import QParams, dequantize
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
from fxedge.backends.tflite.loader import load

int8 = xnnpack.int8
Build = Callable[..., Stored]


def integers(seed: int, size: Sequence[int], extreme: bool = False) -> Tensor:
    values = torch.randint(
        -128, 128, tuple(size), generator=torch.Generator().manual_seed(seed), dtype=torch.int32
    )
    return torch.where(values >= 0, 127, -128).to(torch.int32) if extreme else values


def deployed(build: Build, feeds: Sequence[tuple[Tensor, QParams | None]], folder: Path) -> Tensor:
    """What LiteRT gives for a graph of one operator; integers are fed as int8."""
    w = Writer()
    arrays = [(x if qp is None else x.to(torch.int8)).numpy() for x, qp in feeds]
    inputs = [
        w.tensor(f"x{i}", tuple(x.shape), torch.float32 if qp is None else torch.int8, qp)
        for i, (x, qp) in enumerate(feeds)
    ]
    path = folder / "model.tflite"
    path.write_bytes(w.model_bytes(inputs, [("y", build(w, *inputs))]))
    return torch.from_numpy(load(path).run(arrays)[0])


def call(
    inputs: Sequence[Tensor],
    qparams: Sequence[QParams],
    out: QParams,
    clamp: tuple[int, int] = (-128, 127),
    **attrs: Any,
) -> KernelCall:
    return KernelCall(tuple(inputs), tuple(qparams), out, clamp, attrs)


def assert_equal(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    off = (found.to(torch.int32) - expected.to(torch.int32)).abs()
    assert int(off.max()) == 0, f"{int((off > 0).sum())} of {off.numel()} differ, by up to {int(off.max())}"


# --- products ---------------------------------------------------------------------------------------------------

CONVS = {
    "strided": ((2, 17, 17, 3), (16, 3, 3, 3), 2, 1, 1),
    "pointwise": ((1, 9, 11, 16), (24, 16, 1, 1), 1, 1, 1),
    "depthwise-20": ((2, 9, 9, 20), (20, 1, 3, 3), 1, 1, 20),
    "depthwise-32": ((2, 9, 9, 32), (32, 1, 3, 3), 1, 1, 32),
    "depthwise-5x5": ((1, 9, 9, 17), (17, 1, 5, 5), 2, 1, 17),
    "depthwise-dilated": ((1, 9, 9, 12), (12, 1, 3, 3), 1, 2, 12),
    "depth-multiplier": ((2, 9, 9, 8), (16, 1, 3, 3), 1, 1, 8),
    "grouped": ((2, 9, 9, 24), (36, 8, 3, 3), 2, 1, 3),
    "dilated": ((1, 13, 13, 8), (9, 8, 3, 3), 1, 2, 1),
    "wide": ((1, 5, 5, 960), (33, 960, 1, 1), 1, 1, 1),
}


def weights(size: Sequence[int], extreme: bool) -> tuple[Tensor, QParams, Tensor]:
    """Weight, its parameters, bias."""
    g = torch.Generator().manual_seed(1)
    weight = torch.randint(-127, 128, tuple(size), generator=g, dtype=torch.int32)
    weight = torch.where(weight > 0, 127, -127).to(torch.int32) if extreme else weight
    scales = torch.rand(size[0], generator=g) * 0.02 + 0.001
    qp = QParams(tuple(scales.tolist()), (0,) * size[0], -127, 127, torch.int8, 0)
    return weight, qp, torch.randint(-20_000, 20_000, (size[0],), generator=g, dtype=torch.int32)


def stored(w: Writer, weight: Tensor, qp: QParams, bias: Tensor, x_qp: QParams, axis: int) -> list[Stored]:
    scales = bias_scale(x_qp, qp).tolist()
    bias_qp = QParams(tuple(scales), (0,) * len(scales), -(2**31), 2**31 - 1, torch.int32, 0)
    moved = QParams(qp.scale, qp.zero_point, qp.qmin, qp.qmax, qp.dtype, axis)
    return [w.constant(weight.to(torch.int8), "weight", moved), w.constant(bias, "bias", bias_qp)]


def output(x_qp: QParams, weight: Tensor, qp: QParams) -> QParams:
    """A scale at which the extremes saturate and the rest does not."""
    return int8(float(x_qp.scale[0] * qp.scale_tensor().mean() * 73 * weight[0].numel() ** 0.5 * 1.7), 10)


@pytest.mark.parametrize("extreme", [False, True], ids=["random", "extreme"])
@pytest.mark.parametrize("case", CONVS.values(), ids=CONVS.keys())
def test_convolution_is_exact(case: Any, extreme: bool, tmp_path: Path) -> None:
    size, weight_size, stride, dilation, groups = case
    x, x_qp = integers(2, size, extreme), int8(0.031, -51)
    weight, qp, bias = weights(weight_size, extreme)
    y_qp, depthwise = output(x_qp, weight, qp), groups == size[3]
    attrs = {"stride": stride, "padding": 0, "dilation": dilation, "groups": groups}
    channels_first = x.permute(0, 3, 1, 2).to(torch.int8)
    expected = arithmetic.conv(KernelCall((channels_first,), (x_qp,), y_qp, (-128, 127), attrs, weight, qp, bias))
    expected = expected.permute(0, 2, 3, 1)

    def build(w: Writer, source: Stored) -> Stored:
        order = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
        operands = [source, *stored(w, weight.permute(order), qp, bias, x_qp, 3 if depthwise else 0)]
        options = {"padding": 1, "strideH": stride, "strideW": stride}
        options |= {"dilationHFactor": dilation, "dilationWFactor": dilation}
        options |= {"depthMultiplier": weight_size[0] // size[3]} if depthwise else {}
        code = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        return w.op(code, operands, tuple(expected.shape), qparams=y_qp, **options)

    assert_equal(deployed(build, [(x, x_qp)], tmp_path), expected)


@pytest.mark.parametrize("extreme", [False, True], ids=["random", "extreme"])
@pytest.mark.parametrize("size", [(5, 77), (3, 4, 32)], ids=str)
def test_linear_is_exact(size: tuple[int, ...], extreme: bool, tmp_path: Path) -> None:
    x, x_qp = integers(3, size, extreme), int8(0.031, -51)
    weight, qp, bias = weights((13, size[-1]), extreme)
    y_qp = output(x_qp, weight, qp)
    expected = arithmetic.linear(KernelCall((x.to(torch.int8),), (x_qp,), y_qp, (-128, 127), {}, weight, qp, bias))

    def build(w: Writer, source: Stored) -> Stored:
        operands = [source, *stored(w, weight, qp, bias, x_qp, 0)]
        return w.op("FULLY_CONNECTED", operands, tuple(expected.shape), qparams=y_qp, keepNumDims=len(size) > 2)

    assert_equal(deployed(build, [(x, x_qp)], tmp_path), expected)


@pytest.mark.parametrize("zeros", [(-7, 11), (-7, 0), (0, 11), (0, 0)], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_matmul_is_exact(seed: int, zeros: tuple[int, int], tmp_path: Path) -> None:
    a, b = integers(seed, (2, 77, 19)), integers(seed + 50, (2, 19, 90))
    a_qp, b_qp, y_qp = int8(0.0312, zeros[0]), int8(0.0171, zeros[1]), int8(0.05 + seed * 0.031, 3)
    expected = arithmetic.matmul(call([a, b], [a_qp, b_qp], y_qp))

    def build(w: Writer, left: Stored, right: Stored) -> Stored:
        return w.op("BATCH_MATMUL", [left, right], (2, 77, 90), qparams=y_qp)

    assert_equal(deployed(build, [(a, a_qp), (b, b_qp)], tmp_path), expected)


# --- sums and products of two -----------------------------------------------------------------------------------

PAIRS = {
    "ordinary": (int8(0.0312, -7), int8(0.0171, 11), int8(0.0447, 5)),
    "ties": (int8(1, 0), int8(1, 0), int8(2, 0)),
    "quarters": (int8(0.5, 1), int8(0.25, 0), int8(2, -5)),
    "unlike": (int8(1, 0), int8(0.003, 0), int8(0.02, 0)),
    "shrunk": (int8(0.02, -128), int8(0.02, 127), int8(0.9, -3)),
}
TWO = {"ADD": arithmetic.add, "SUB": arithmetic.sub, "MUL": arithmetic.mul}


@pytest.mark.parametrize("case", PAIRS.values(), ids=PAIRS.keys())
@pytest.mark.parametrize("code", TWO)
def test_two_operands_are_exact(code: str, case: tuple[QParams, QParams, QParams], tmp_path: Path) -> None:
    a_qp, b_qp, y_qp = case
    a, b = torch.arange(-128, 128).repeat_interleave(256), torch.arange(-128, 128).repeat(256)
    expected = TWO[code](call([a.to(torch.int32), b.to(torch.int32)], [a_qp, b_qp], y_qp))
    found = deployed(lambda w, x, y: w.op(code, [x, y], x.shape, qparams=y_qp), [(a, a_qp), (b, b_qp)], tmp_path)
    assert_equal(found, expected)


@settings(max_examples=25, deadline=None)
@given(
    scales=st.tuples(*[st.floats(2.0**-10, 8.0, width=32)] * 3),
    zeros=st.tuples(*[st.integers(-128, 127)] * 3),
    code=st.sampled_from(sorted(TWO)),
)
def test_any_scales_are_exact(
    tmp_path_factory: pytest.TempPathFactory,
    scales: tuple[float, float, float],
    zeros: tuple[int, int, int],
    code: str,
) -> None:
    a_qp, b_qp, y_qp = (int8(scale, zero) for scale, zero in zip(scales, zeros, strict=True))
    if not all(2**-10 <= qp.scale[0] / y_qp.scale[0] < 2**8 for qp in (a_qp, b_qp)):
        return  # XNNPACK leaves these to TFLite's own kernel
    a, b = integers(7, (601,)), integers(8, (601,))
    expected = TWO[code](call([a, b], [a_qp, b_qp], y_qp))
    folder = tmp_path_factory.mktemp("pair")
    found = deployed(lambda w, x, y: w.op(code, [x, y], x.shape, qparams=y_qp), [(a, a_qp), (b, b_qp)], folder)
    assert_equal(found, expected)


# --- one operand ------------------------------------------------------------------------------------------------

GRID = torch.arange(-128, 128, dtype=torch.int32).reshape(1, 16, 16)
IN = (int8(0.0312, -7), int8(0.11, 40), int8(1 / 32, 0))


@pytest.mark.parametrize("qp", IN, ids=lambda qp: f"{qp.scale[0]:.3g}")
def test_quantize_is_exact(qp: QParams, tmp_path: Path) -> None:
    ties = (torch.arange(-300, 300) + 0.5) * qp.scale[0]
    x = torch.cat([torch.randn(4000, generator=torch.Generator().manual_seed(0)) * 3, ties])
    found = deployed(lambda w, source: w.op("QUANTIZE", [source], source.shape, qparams=qp), [(x, None)], tmp_path)
    assert_equal(found, xnnpack.quantize(x, qp))


@pytest.mark.parametrize("qp", IN, ids=lambda qp: f"{qp.scale[0]:.3g}")
def test_dequantize_is_exact(qp: QParams, tmp_path: Path) -> None:
    def build(w: Writer, source: Stored) -> Stored:
        return w.op("DEQUANTIZE", [source], source.shape, dtype=torch.float32)

    assert torch.equal(deployed(build, [(GRID, qp)], tmp_path), dequantize(GRID, qp))


TABLES: dict[str, tuple[Any, QParams, dict[str, Any], dict[str, Any]]] = {
    "LOGISTIC": (xnnpack.elementwise(torch.sigmoid), xnnpack.PROBABILITY, {}, {}),
    "TANH": (xnnpack.elementwise(torch.tanh), xnnpack.TANH, {}, {}),
    "GELU": (arithmetic.gelu, int8(0.02, -100), {"approximate": "none"}, {"approximate": False}),
}


@pytest.mark.parametrize("qp", IN, ids=lambda qp: f"{qp.scale[0]:.3g}")
@pytest.mark.parametrize("code", TABLES)
def test_tables(code: str, qp: QParams, tmp_path: Path) -> None:
    """Exact here; the last bit of exp and erf belongs to the library, so the rules allow 1 LSB."""
    kernel, y_qp, attrs, options = TABLES[code]
    found = deployed(lambda w, x: w.op(code, [x], x.shape, qparams=y_qp, **options), [(GRID, qp)], tmp_path)
    assert_equal(found, kernel(call([GRID], [qp], y_qp, **attrs)))


@pytest.mark.parametrize("slope", [0.1, 0.01, 0.7])
@pytest.mark.parametrize("y_qp", [int8(0.0171, 11), int8(0.0312, -7), int8(0.05, -120)], ids=str)
def test_leaky_relu_is_exact(y_qp: QParams, slope: float, tmp_path: Path) -> None:
    found = deployed(
        lambda w, x: w.op("LEAKY_RELU", [x], x.shape, qparams=y_qp, alpha=slope), [(GRID, IN[0])], tmp_path
    )
    assert_equal(found, xnnpack.leaky_relu(call([GRID], [IN[0]], y_qp, negative_slope=slope)))


@pytest.mark.parametrize("scale", [0.01, 0.0312, 0.2])
def test_softmax_is_within_one(scale: float, tmp_path: Path) -> None:
    x, qp = integers(4, (3, 5, 17)), int8(scale, -7)
    found = deployed(
        lambda w, s: w.op("SOFTMAX", [s], s.shape, qparams=xnnpack.PROBABILITY, beta=1.0), [(x, qp)], tmp_path
    )
    expected = arithmetic.softmax(call([x], [qp], xnnpack.PROBABILITY, dim=2))
    assert int((found.to(torch.int32) - expected).abs().max()) <= 1


# --- pools and what moves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scales", [(0.0312, 0.0171), (0.5, 0.25), (1.0, 1.0), (1.0, 2.0), (0.01, 0.3)], ids=str)
@pytest.mark.parametrize("size", [(2, 8, 12, 20), (1, 7, 7, 33), (3, 1, 1, 5), (8, 2, 3, 64)], ids=str)
def test_mean_is_exact(size: tuple[int, ...], scales: tuple[float, float], tmp_path: Path) -> None:
    x, x_qp, y_qp = integers(5, size), int8(scales[0], -7), int8(scales[1], 11)
    found = deployed(
        lambda w, s: w.op("MEAN", [s, w.ints([1, 2])], (size[0], size[3]), qparams=y_qp, keepDims=False),
        [(x, x_qp)],
        tmp_path,
    )
    expected = arithmetic.mean(call([x.permute(0, 3, 1, 2)], [x_qp], y_qp, dim=[2, 3], keepdim=False))
    assert_equal(found, expected)


@pytest.mark.parametrize("seed", range(12))
def test_mean_is_exact_where_it_lies_next_to_a_tie(seed: int, tmp_path: Path) -> None:
    """Sums whose mean is half an integer but for what float32 leaves: there the order of operations shows."""
    generator = torch.Generator().manual_seed(seed)
    size = [(14, 14), (7, 7), (28, 28), (12, 9)][seed % 4]
    count, (low, high) = size[0] * size[1], (-100, 100)
    zero_x, zero_y, half = (int(torch.randint(low, high, (1,), generator=generator)) for _ in range(3))
    total = int(torch.randint(1, 4 * count, (1,), generator=generator))
    scale = float(torch.rand(1, generator=generator)) * 0.2 + 0.005
    x_qp, y_qp = int8(scale, zero_x), int8(scale * total / (count * (abs(half) % 40 + 0.5)), zero_y)
    sums = torch.tensor([sign * times * total for times in (1, 3, 5, 7) for sign in (1, -1)]) + zero_x * count
    x = sums // count + (torch.arange(count)[:, None] < sums % count)
    x = x.clamp(-128, 127).to(torch.int32).reshape(1, *size, len(sums))
    found = deployed(
        lambda w, s: w.op("MEAN", [s, w.ints([1, 2])], (1, len(sums)), qparams=y_qp, keepDims=False),
        [(x, x_qp)],
        tmp_path,
    )
    expected = arithmetic.mean(call([x.permute(0, 3, 1, 2)], [x_qp], y_qp, dim=[2, 3], keepdim=False))
    assert_equal(found, expected)


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 1), (3, 2)])
def test_average_pool_is_exact(kernel: int, stride: int, tmp_path: Path) -> None:
    x, qp = integers(6, (2, 9, 9, 20)), int8(0.03, -7)
    out = (9 - kernel) // stride + 1
    window = {"strideH": stride, "strideW": stride, "filterHeight": kernel, "filterWidth": kernel, "padding": 1}
    found = deployed(
        lambda w, s: w.op("AVERAGE_POOL_2D", [s], (2, out, out, 20), qparams=qp, **window), [(x, qp)], tmp_path
    )
    attrs = {"kernel_size": [kernel], "stride": [stride], "padding": [0]}
    expected = arithmetic.average_pool(call([x.permute(0, 3, 1, 2)], [qp], qp, **attrs))
    assert_equal(found, expected.permute(0, 2, 3, 1))


def test_concatenation_demands_equal_parameters(tmp_path: Path) -> None:
    x, y_qp = integers(9, (1, 4, 4, 3)), int8(0.05, 3)
    with pytest.raises(RuntimeError, match="CONCATENATION"):
        deployed(
            lambda w, a, b: w.op("CONCATENATION", [a, b], (1, 4, 4, 6), qparams=y_qp, axis=3),
            [(x, int8(0.03, -7)), (x, y_qp)],
            tmp_path,
        )


def test_nearest_resize_moves_integers(tmp_path: Path) -> None:
    x, qp = integers(10, (1, 4, 5, 3)), int8(0.03, -7)
    options = {"alignCorners": False, "halfPixelCenters": False}
    found = deployed(
        lambda w, s: w.op("RESIZE_NEAREST_NEIGHBOR", [s, w.ints([12, 15])], (1, 12, 15, 3), qparams=qp, **options),
        [(x, qp)],
        tmp_path,
    )
    expected = F.interpolate(x.permute(0, 3, 1, 2).float(), scale_factor=3, mode="nearest").permute(0, 2, 3, 1)
    assert_equal(found, expected.to(torch.int32))
