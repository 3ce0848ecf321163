"""Each kernel against OpenVINO, its transformations on, one op at a time: random, extreme, tie-rich integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from differential import check_everywhere
from fxedge.backends.openvino import backend
from fxedge.backends.openvino.rules import quantize
from fxedge.compiler.quant.program import build_program
from fxedge.compiler.quant.qparams import QParams
from hypothesis import given
from hypothesis import strategies as st
from quantized_ops import OpCase, aten, integer_steps, off_by, qint8, quint8
from torch import Tensor, nn

pytestmark = pytest.mark.skipif(backend.missing() is not None, reason="openvino is not installed")


def integers(g: torch.Generator, *size: int, extreme: bool = False) -> Tensor:
    values = torch.randint(0, 256, size, generator=g, dtype=torch.int32)
    return torch.where(values > 127, 255, 0).to(torch.int32) if extreme else values


def layer(
    op: Any,
    x: tuple[int, ...],
    weight: tuple[int, ...],
    args: tuple[Any, ...] = (),
    activation: tuple[Any, ...] = (),
    extreme: bool = False,
) -> OpCase:
    g = torch.Generator().manual_seed(1)
    stored = torch.randint(-127, 128, weight, generator=g, dtype=torch.int32)
    stored = torch.where(stored >= 0, 127, -127).to(torch.int32) if extreme else stored
    scales = torch.rand(weight[0], generator=g) * 0.02 + 0.001
    out = float(0.03 * scales.mean() * 73 * 73 * stored[0].numel() ** 0.5 / 60)
    return OpCase(
        op,
        [integers(g, *x, extreme=extreme)],
        [quint8(0.03, 77)],
        quint8(out, 100),
        args,
        stored,
        qint8(scales),
        torch.randn(weight[0], generator=g),
        activation=activation,
    )


def one(op: Any, size: tuple[int, ...], args: tuple[Any, ...] = (), out: QParams | None = None) -> OpCase:
    qp = quint8(0.05, 117)
    return OpCase(op, [integers(torch.Generator().manual_seed(2), *size)], [qp], out or qp, args)


def two(op: Any, out: QParams) -> OpCase:
    g = torch.Generator().manual_seed(3)
    values = [integers(g, 2, 6, 9), integers(g, 2, 6, 9)]
    return OpCase(op, values, [quint8(0.05, 11), quint8(0.03, 201)], out)


_SAME = ([1, 1], [1, 1], [1, 1])
_POOL = quint8(0.03, 90)
CASES = {
    "conv2d": layer(aten.conv2d.default, (2, 8, 9, 9), (12, 8, 3, 3), (*_SAME, 1)),
    "conv2d-relu": layer(aten.conv2d.default, (2, 8, 9, 9), (12, 8, 3, 3), (*_SAME, 1), (aten.relu.default,)),
    "wide-extreme": layer(aten.conv2d.default, (1, 320, 5, 5), (9, 320, 1, 1), extreme=True, args=([1, 1],)),
    "depthwise": layer(aten.conv2d.default, (2, 20, 9, 9), (20, 1, 3, 3), (*_SAME, 20)),
    "grouped": layer(aten.conv2d.default, (2, 24, 9, 9), (36, 8, 3, 3), (*_SAME, 3)),
    "pointwise-strided": layer(aten.conv2d.default, (2, 16, 9, 9), (24, 16, 1, 1), ([2, 2],)),
    "pointwise-strided-padded": layer(aten.conv2d.default, (2, 16, 9, 9), (24, 16, 1, 1), ([2, 2], [1, 1])),
    "conv1d": layer(aten.conv1d.default, (2, 8, 33), (7, 8, 5), ([1], [2])),
    "conv3d": layer(aten.conv3d.default, (1, 4, 7, 7, 7), (5, 4, 3, 3, 3), ([1] * 3, [1] * 3)),
    "linear": layer(aten.linear.default, (3, 64), (10, 64)),
    "linear-rank-3": layer(aten.linear.default, (2, 5, 33), (17, 33)),
    "add": two(aten.add.Tensor, quint8(0.07, 77)),
    "mul": two(aten.mul.Tensor, quint8(0.2, 77)),
    "sub": two(aten.sub.Tensor, quint8(0.07, 77)),
    "avg_pool2d": one(aten.avg_pool2d.default, (2, 4, 9, 9), ([3, 3], [2, 2], [1, 1], False, False), _POOL),
    "avg_pool2d-counted": one(aten.avg_pool2d.default, (2, 4, 9, 9), ([3, 3], [2, 2], [1, 1]), _POOL),
    "global": one(aten.adaptive_avg_pool2d.default, (2, 4, 9, 9), ([1, 1],), quint8(0.01, 128)),
    "mean": one(aten.mean.dim, (2, 4, 9, 9), ([2, 3], False), quint8(0.01, 128)),
    "relu": one(aten.relu.default, (2, 4, 9), (), quint8(0.03, 0)),
    "leaky_relu": one(aten.leaky_relu.default, (2, 4, 64), (0.1,), quint8(0.03, 20)),
    "sigmoid": one(aten.sigmoid.default, (2, 4, 64), (), quint8(1 / 256, 0)),
    "silu": one(aten.silu.default, (2, 4, 64), (), quint8(0.03, 20)),
    "hardswish": one(aten.hardswish.default, (2, 4, 64), (), quint8(0.03, 20)),
    "gelu": one(aten.gelu.default, (2, 4, 64), (), quint8(0.03, 20)),
}
EXACT = {
    "max_pool2d": one(aten.max_pool2d.default, (2, 4, 9, 9), ([3, 3], [2, 2], [1, 1])),
    "permute": one(aten.permute.default, (2, 4, 9), ([0, 2, 1],)),
    "slice": one(aten.slice.Tensor, (2, 4, 9), (1, 1, 3)),
    "pad": one(aten.constant_pad_nd.default, (2, 4, 9), ([1, 2], 0)),
    "upsample": one(aten.upsample_nearest2d.vec, (2, 4, 5, 5), (None, [2.0, 2.0])),
}
# More integers may differ by one: gates are float there and integers here; these scales make many ties.
GATED, TIED = {"silu", "hardswish", "gelu", "sigmoid"}, {"avg_pool2d", "avg_pool2d-counted", "leaky_relu"}


@pytest.mark.parametrize("name", CASES)
def test_a_computed_result_is_within_one(name: str, tmp_path: Path) -> None:
    off = off_by(CASES[name], backend, tmp_path)  # type: ignore[arg-type]
    assert int(off.abs().max()) <= 1
    assert float((off != 0).float().mean()) <= (0.1 if name in GATED else 0.03 if name in TIED else 0.005)


@pytest.mark.parametrize("name", EXACT)
def test_what_only_moves_is_exact(name: str, tmp_path: Path) -> None:
    assert not off_by(EXACT[name], backend, tmp_path).any()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["pointwise-strided", "conv2d", "linear"])
def test_products_run_on_integers(name: str, tmp_path: Path) -> None:
    program = build_program(CASES[name].graph(), backend.spec)
    assert len(integer_steps(program)) == 1
    path = tmp_path / "model.onnx"
    backend.emit(program, path)
    assert backend.unfused(program, path) == ()


@pytest.mark.parametrize("op", [aten.amax.default, aten.amin.default])
@pytest.mark.parametrize("keepdim", [False, True])
def test_an_extreme_over_axes_is_quantized_as_it_is(op: Any, keepdim: bool, tmp_path: Path) -> None:
    """OpenVINO's own fusion of the two gives numbers that are off by up to 255."""
    case = one(op, (2, 3, 5, 7), ([2], keepdim))
    program = build_program(case.graph(), backend.spec)
    path = tmp_path / "model.onnx"
    backend.emit(program, path)
    found = backend.load(path).run([x.numpy() for x in case.floats()])[0]
    wanted = op(case.floats()[0], [2], keepdim)
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-6)


class Tokens(nn.Module):
    """Integers are made of a table's rows, with an op and a transposition between."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(11, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.table(x).relu().permute(1, 0, 2))


def test_rows_of_a_table_that_are_turned_before_they_are_quantized(tmp_path: Path) -> None:
    torch.manual_seed(0)
    batches = [(torch.randint(0, 11, (batch, 4)),) for batch in (2, 3)]
    noise = check_everywhere(Tokens(), batches, tmp_path, targets=["openvino"])
    assert noise["openvino"] < 0.05


@given(
    scale=st.floats(1e-3, 1.0), zero_point=st.integers(0, 255), steps=st.lists(st.integers(-600, 1200), min_size=1)
)
def test_quantizing_is_within_one_of_the_definition(scale: float, zero_point: int, steps: list[int]) -> None:
    """Quarters of a step, so that many values are half-way."""
    qp = quint8(scale, zero_point)
    x = torch.tensor(steps, dtype=torch.float64) / 4 * qp.scale[0]
    defined = (torch.round(x / qp.scale[0]) + zero_point).clamp(0, 255)
    assert int((quantize(x.float(), qp) - defined).abs().max()) <= 1


@pytest.mark.parametrize(("scale", "zero_point"), [(1 / 127.5, 127), (0.0186584666, 115), (0.02, 0), (0.1, 3)])
def test_quantizing_is_what_openvino_does_even_at_ties(scale: float, zero_point: int, tmp_path: Path) -> None:
    qp = quint8(scale, zero_point)
    quarters = torch.arange(-4 * zero_point - 8, 4 * (258 - zero_point), dtype=torch.float64)
    x = (quarters / 4 * qp.scale[0]).float()[None]
    case = OpCase(aten.relu.default, [torch.zeros(1, x.shape[1], dtype=torch.int32)], [qp], qp)
    program = build_program(case.graph(), backend.spec)
    path = tmp_path / "model.onnx"
    backend.emit(program, path, [program.steps[0].name])
    deployed = backend.load(path).run([x.numpy()])[-1].astype(np.int32)
    assert (torch.from_numpy(deployed) - quantize(x, qp)).abs().max() == 0
