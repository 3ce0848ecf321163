"""TFLite's own kernels, delegate off, and the scales at which XNNPACK leaves an op to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from fxedge.backends.tflite import arithmetic, fixed_point
from fxedge.backends.tflite.arithmetic import int8
from fxedge.backends.tflite.writer import Tensor as Stored
from fxedge.backends.tflite.writer import Writer
from fxedge.compiler.quant.arithmetic import KernelCall
from fxedge.compiler.quant.kernels import bias_scale
from fxedge.compiler.quant.qparams import QParams
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
from fxedge.backends.tflite.loader import load

GRID = [torch.arange(-128, 128).repeat_interleave(256), torch.arange(-128, 128).repeat(256)]
KERNELS: dict[str, Callable[[KernelCall], Tensor]] = {
    "ADD": fixed_point.add,
    "SUB": lambda call: fixed_point.add(call, -1),
    "MUL": fixed_point.mul,
}
SCALES = {
    "ordinary": (int8(0.0312, -7), int8(0.0171, 11), int8(0.0447, 5)),
    "ties": (int8(1, 0), int8(1, 0), int8(2, 0)),
    "quarters": (int8(0.5, 1), int8(0.25, 0), int8(2, -5)),
    "near ties": (
        int8(0.024571077898144722, 11),
        int8(0.01744791679084301, -128),
        int8(0.01715686358511448, -128),
    ),
    "tiny": (int8(1e-5, 3), int8(0.003, 0), int8(0.02, 0)),
}


def run(
    build: Callable[..., Stored], feeds: Sequence[tuple[Tensor, QParams]], folder: Path, delegate: bool
) -> Tensor:
    w = Writer()
    inputs = [w.tensor(f"x{i}", tuple(x.shape), torch.int8, qp) for i, (x, qp) in enumerate(feeds)]
    path = folder / "model.tflite"
    path.write_bytes(w.model_bytes(inputs, [("y", build(w, *inputs))]))
    return torch.from_numpy(load(path, delegate=delegate).run([x.to(torch.int8).numpy() for x, _ in feeds])[0])


def two(code: str, case: Sequence[QParams], folder: Path, delegate: bool) -> Tensor:
    def build(w: Writer, x: Stored, y: Stored) -> Stored:
        return w.op(code, [x, y], x.shape, qparams=case[2])

    return run(build, list(zip(GRID, case, strict=False)), folder, delegate)


def call(case: Sequence[QParams]) -> KernelCall:
    a, b = (values.to(torch.int32) for values in GRID)
    return KernelCall((a, b), (case[0], case[1]), case[2], (-128, 127), {})


@pytest.mark.parametrize("case", SCALES.values(), ids=SCALES.keys())
@pytest.mark.parametrize("code", KERNELS)
def test_own_kernels_of_two_operands(code: str, case: Sequence[QParams], tmp_path: Path) -> None:
    found = two(code, case, tmp_path, delegate=False).to(torch.int32)
    assert torch.equal(found, KERNELS[code](call(case)))


@pytest.mark.parametrize("code", KERNELS)
def test_scales_that_are_not_delegated(code: str, tmp_path: Path) -> None:
    """With the delegate on, the simulator's kernel is TFLite's own."""
    kernel = {"ADD": arithmetic.add, "SUB": arithmetic.sub, "MUL": arithmetic.mul}[code]
    case = SCALES["tiny"]
    assert not fixed_point.sum_is_delegated(call(case))
    assert not fixed_point.product_is_delegated(call(case))
    assert torch.equal(two(code, case, tmp_path, delegate=True).to(torch.int32), kernel(call(case)))


def test_own_convolution_rounds_twice_upwards(tmp_path: Path) -> None:
    """With XNNPACK off, about one integer in a thousand is another one than with it."""
    g = torch.Generator().manual_seed(0)
    x = torch.randint(-128, 128, (2, 11, 11, 16), generator=g)
    weight = torch.randint(-127, 128, (24, 16, 3, 3), generator=g)
    scales = torch.rand(24, generator=g) * 0.02 + 0.001
    x_qp, y_qp = int8(0.031, -51), int8(0.031 * float(scales.mean()) * 73 * 12 * 1.7, 10)
    w_qp = QParams(tuple(scales.tolist()), (0,) * 24, -127, 127, torch.int8, 0)
    products = bias_scale(x_qp, w_qp)
    b_qp = QParams(tuple(products.tolist()), (0,) * 24, -(2**31), 2**31 - 1, torch.int32, 0)
    total = F.conv2d((x + 51).permute(0, 3, 1, 2).double(), weight.double()).to(torch.int64)

    def build(w: Writer, source: Stored) -> Stored:
        stored = w.constant(weight.permute(0, 2, 3, 1).to(torch.int8), qparams=w_qp)
        bias = w.constant(torch.zeros(24, dtype=torch.int32), qparams=b_qp)
        steps = {f"stride{axis}": 1 for axis in "HW"} | {f"dilation{axis}Factor": 1 for axis in "HW"}
        return w.op("CONV_2D", [source, stored, bias], (2, 9, 9, 24), qparams=y_qp, padding=1, **steps)

    def scaled(channel: int) -> Tensor:
        factor = float(x_qp.scale[0]) * float(w_qp.scale[channel]) / float(y_qp.scale[0])
        return fixed_point.twice_up(total[:, channel], factor)

    expected = (torch.stack([scaled(c) for c in range(24)], 3) + 10).clamp(-128, 127)
    own, delegated = (run(build, [(x, x_qp)], tmp_path, on).to(torch.int64) for on in (False, True))
    assert torch.equal(own, expected)
    assert int((own - delegated).abs().max()) <= 1


@given(
    total=st.lists(st.integers(-(2**24), 2**24), min_size=1, max_size=20),
    factor=st.floats(2.0**-20, 0.999),
    rounding=st.sampled_from([fixed_point.once, fixed_point.twice, fixed_point.twice_up]),
)
def test_every_rounding_is_near_the_real_product(
    total: list[int], factor: float, rounding: Callable[[Tensor, float], Tensor]
) -> None:
    found = rounding(torch.tensor(total), factor)
    exact = torch.tensor(total, dtype=torch.float64) * factor
    assert float((found.double() - exact).abs().max()) <= 1.0 + 1e-6
