"""Each kernel of TFLite's own against LiteRT without delegates: random and tie-rich integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fxedge.backends.tflite import arithmetic, builtin
from fxedge.backends.tflite.rules import TFLITE
from fxedge.backends.tflite.writer import Tensor as Stored
from fxedge.backends.tflite.writer import Writer
from fxedge.backends.xnnpack import arithmetic as xnnpack
from fxedge.backends.xnnpack.arithmetic import int8
from fxedge.compiler.ir.ops import aten
from fxedge.compiler.quant.arithmetic import Kernel, KernelCall
from fxedge.compiler.quant.kernels import bias_scale
from fxedge.compiler.quant.qparams import QParams
from torch import Tensor

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
from fxedge.backends.tflite.loader import load

Build = Callable[..., Stored]


def integers(seed: int, size: Sequence[int]) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-128, 128, tuple(size), generator=generator, dtype=torch.int32)


def deployed(build: Build, x: Tensor, qp: QParams | None, folder: Path) -> Tensor:
    """What LiteRT gives without delegates for a graph of one operator."""
    w = Writer()
    kind = torch.float32 if qp is None else torch.int8
    source = w.tensor("x", tuple(x.shape), kind, qp)
    path = folder / "model.tflite"
    path.write_bytes(w.model_bytes([source], [("y", build(w, source))]))
    return torch.from_numpy(load(path, delegate=False).run([x.to(kind).numpy()])[0]).to(torch.int32)


def differing(found: Tensor, expected: Tensor) -> int:
    assert found.shape == expected.shape
    return int((found != expected).sum())


def layer(weight_size: Sequence[int], x_qp: QParams) -> tuple[Tensor, QParams, Tensor, QParams]:
    """Weight and bias with parameters; at the result's scale half of the sums saturate, so that none is idle."""
    g = torch.Generator().manual_seed(1)
    weight = torch.randint(-127, 128, tuple(weight_size), generator=g, dtype=torch.int32)
    scales = torch.rand(weight_size[0], generator=g) * 0.02 + 0.001
    qp = QParams(tuple(scales.tolist()), (0,) * weight_size[0], -127, 127, torch.int8, 0)
    bias = torch.randint(-20_000, 20_000, (weight_size[0],), generator=g, dtype=torch.int32)
    y_qp = int8(float(x_qp.scale[0] * scales.mean() * 73 * weight[0].numel() ** 0.5), 10)
    return weight, qp, bias, y_qp


def stored(w: Writer, weight: Tensor, qp: QParams, bias: Tensor, x_qp: QParams, axis: int) -> list[Stored]:
    scales = bias_scale(x_qp, qp).tolist()
    bias_qp = QParams(tuple(scales), (0,) * len(scales), -(2**31), 2**31 - 1, torch.int32, 0)
    moved = QParams(qp.scale, qp.zero_point, qp.qmin, qp.qmax, qp.dtype, axis)
    return [w.constant(weight.to(torch.int8), "weight", moved), w.constant(bias, "bias", bias_qp)]


X = int8(0.031, -51)
CONVS = {
    "strided": ((4, 33, 33, 3), (16, 3, 3, 3), 2, 1, 1),
    "pointwise": ((4, 19, 11, 16), (24, 16, 1, 1), 1, 1, 1),
    "one channel": ((4, 19, 19, 1), (16, 1, 3, 3), 1, 1, 1),
    "depthwise-20": ((4, 19, 19, 20), (20, 1, 3, 3), 1, 1, 20),
    "depthwise-32": ((2, 19, 19, 32), (32, 1, 3, 3), 2, 1, 32),
    "depthwise-5x5": ((4, 19, 19, 17), (17, 1, 5, 5), 2, 1, 17),
    "depthwise-7": ((8, 19, 19, 7), (7, 1, 3, 3), 1, 1, 7),
    "depthwise-dilated": ((2, 19, 19, 12), (12, 1, 3, 3), 1, 2, 12),
    "depth-multiplier": ((4, 19, 19, 8), (16, 1, 3, 3), 1, 1, 8),
    "grouped": ((4, 19, 19, 24), (36, 8, 3, 3), 2, 1, 3),
    "dilated": ((2, 23, 23, 8), (9, 8, 3, 3), 1, 2, 1),
    "wide": ((2, 5, 5, 960), (33, 960, 1, 1), 1, 1, 1),
}


@pytest.mark.parametrize("case", CONVS.values(), ids=CONVS.keys())
def test_convolution_is_exact(case: Any, tmp_path: Path) -> None:
    size, weight_size, stride, dilation, groups = case
    x, (weight, qp, bias, y_qp) = integers(2, size), layer(weight_size, X)
    depthwise = weight_size[1] == 1 and size[3] > 1
    attrs = {"stride": stride, "padding": 0, "dilation": dilation, "groups": groups}
    first = x.permute(0, 3, 1, 2).to(torch.int8)
    call = KernelCall((first,), (X,), y_qp, (-128, 127), attrs, weight, qp, bias)
    expected = builtin.conv(call).permute(0, 2, 3, 1)

    def build(w: Writer, source: Stored) -> Stored:
        order = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
        operands = [source, *stored(w, weight.permute(order), qp, bias, X, 3 if depthwise else 0)]
        options = {"padding": 1, "strideH": stride, "strideW": stride}
        options |= {"dilationHFactor": dilation, "dilationWFactor": dilation}
        options |= {"depthMultiplier": weight_size[0] // size[3]} if depthwise else {}
        code = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        return w.op(code, operands, tuple(expected.shape), qparams=y_qp, **options)

    assert differing(deployed(build, x, X, tmp_path), expected) == 0


@pytest.mark.parametrize(("size", "out"), [((64, 77), 200), ((1, 1280), 1000), ((3, 40, 32), 64), ((5, 33), 401)])
def test_linear_is_exact(size: tuple[int, ...], out: int, tmp_path: Path) -> None:
    x, (weight, qp, bias, y_qp) = integers(3, size), layer((out, size[-1]), X)
    call = KernelCall((x.to(torch.int8),), (X,), y_qp, (-128, 127), {}, weight, qp, bias)
    expected = builtin.KERNELS[aten.linear.default](call)

    def build(w: Writer, source: Stored) -> Stored:
        operands = [source, *stored(w, weight, qp, bias, X, 0)]
        return w.op("FULLY_CONNECTED", operands, tuple(expected.shape), qparams=y_qp, keepNumDims=len(size) > 2)

    assert differing(deployed(build, x, X, tmp_path), expected) == 0


MEANS = {
    "image": ((8, 8, 12, 20), [1, 2]),
    "image-tail": ((9, 7, 7, 33), [1, 2]),
    "image-narrow": ((8, 2, 2, 7), [1, 2]),
    "image-large": ((2, 14, 14, 64), [1, 2]),
    "rows": ((4, 9, 50), [1]),
    "last": ((4, 50, 10), [2]),
    "height": ((4, 6, 6, 9), [1]),
    "channels": ((4, 5, 6, 8), [3]),
    "all but batch": ((40, 2, 2, 2), [1, 2, 3]),
}


@pytest.mark.parametrize("keep", [False, True], ids=["dropped", "kept"])
@pytest.mark.parametrize("case", MEANS.values(), ids=MEANS.keys())
def test_mean_is_exact(case: Any, keep: bool, tmp_path: Path) -> None:
    size, axes = case
    x = integers(5, size)
    left = tuple(1 if axis in axes else n for axis, n in enumerate(size) if keep or axis not in axes)
    for scales in [(0.0312, 0.0171), (0.5, 0.25), (1.0, 1.0), (1.0, 2.0), (0.01, 0.3), (0.0312, 0.0312)]:
        for zeros in [(-7, 11), (0, 0), (100, -128)]:
            x_qp, y_qp = int8(scales[0], zeros[0]), int8(scales[1], zeros[1])
            call = KernelCall((x,), (x_qp,), y_qp, (-128, 127), {"dim": axes, "keepdim": keep})
            found = deployed(
                lambda w, s, qp=y_qp: w.op("MEAN", [s, w.ints(axes)], left, qparams=qp, keepDims=keep),
                x,
                x_qp,
                tmp_path,
            )
            assert differing(found, builtin.mean(call)) == 0


GRID = torch.arange(-128, 128, dtype=torch.int32).reshape(1, 16, 16)
IN = (int8(0.0312, -7), int8(0.11, 40), int8(1 / 32, 0))


@pytest.mark.parametrize("slope", [0.1, 0.01, 0.7])
@pytest.mark.parametrize("y_qp", [int8(0.0171, 11), int8(0.0312, -7), int8(0.05, -120)], ids=str)
def test_leaky_relu_is_exact(y_qp: QParams, slope: float, tmp_path: Path) -> None:
    call = KernelCall((GRID,), (IN[0],), y_qp, (-128, 127), {"negative_slope": slope})
    found = deployed(
        lambda w, x: w.op("LEAKY_RELU", [x], x.shape, qparams=y_qp, alpha=slope), GRID, IN[0], tmp_path
    )
    assert differing(found, builtin.leaky_relu(call)) == 0


SAME: dict[str, tuple[Kernel, QParams, dict[str, Any], dict[str, Any]]] = {
    "LOGISTIC": (xnnpack.elementwise(torch.sigmoid), xnnpack.PROBABILITY, {}, {}),
    "TANH": (xnnpack.elementwise(torch.tanh), xnnpack.TANH, {}, {}),
    "GELU": (arithmetic.gelu, int8(0.02, -100), {"approximate": "none"}, {"approximate": False}),
}


@pytest.mark.parametrize("qp", IN, ids=lambda qp: f"{qp.scale[0]:.3g}")
@pytest.mark.parametrize("code", SAME)
def test_tables_are_those_of_the_delegate(code: str, qp: QParams, tmp_path: Path) -> None:
    kernel, y_qp, attrs, options = SAME[code]
    found = deployed(lambda w, x: w.op(code, [x], x.shape, qparams=y_qp, **options), GRID, qp, tmp_path)
    assert differing(found, kernel(KernelCall((GRID,), (qp,), y_qp, (-128, 127), attrs))) == 0


@pytest.mark.parametrize("qp", IN, ids=lambda qp: f"{qp.scale[0]:.3g}")
def test_quantize_is_that_of_the_delegate(qp: QParams, tmp_path: Path) -> None:
    ties = (torch.arange(-300, 300) + 0.5) * qp.scale[0]
    x = torch.cat([torch.randn(4000, generator=torch.Generator().manual_seed(0)) * 3, ties])
    found = deployed(lambda w, source: w.op("QUANTIZE", [source], source.shape, qparams=qp), x, None, tmp_path)
    assert differing(found, xnnpack.quantize(x, qp)) == 0


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 1), (3, 2)])
def test_average_pool_is_that_of_the_delegate(kernel: int, stride: int, tmp_path: Path) -> None:
    x, qp = integers(6, (2, 9, 9, 20)), int8(0.03, -7)
    out = (9 - kernel) // stride + 1
    window = {"strideH": stride, "strideW": stride, "filterHeight": kernel, "filterWidth": kernel, "padding": 1}
    found = deployed(
        lambda w, s: w.op("AVERAGE_POOL_2D", [s], (2, out, out, 20), qparams=qp, **window), x, qp, tmp_path
    )
    attrs = {"kernel_size": [kernel], "stride": [stride], "padding": [0]}
    expected = arithmetic.average_pool(KernelCall((x.permute(0, 3, 1, 2),), (qp,), qp, (-128, 127), attrs))
    assert differing(found, expected.permute(0, 2, 3, 1)) == 0


def test_the_target_knows_both_kinds() -> None:
    changed = {op for op, rule in TFLITE.kernels["builtin"].ops.items() if rule.kernel != TFLITE.ops[op].kernel}
    assert changed == builtin.KERNELS.keys() | builtin.SUMS.keys()


def test_what_holds_a_sum_is_known_as_well_as_a_sum() -> None:
    own, ops = TFLITE.ops, TFLITE.kernels["builtin"].ops
    for op in (aten.add.Tensor, aten.hardsigmoid.default, aten.hardswish.default):
        assert (own[op].tolerance, ops[op].tolerance) == (0, 1)
