"""Each kernel against the model's own operators, run one by one by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fxedge.backends.tensorrt import backend
from fxedge.compiler.quant.qparams import QParams
from quantized_ops import OpCase, aten, off_by, qint8
from torch import Tensor


def int8(scale: float) -> QParams:
    return QParams((scale,), (0,), -128, 127, torch.int8)


def integers(g: torch.Generator, *size: int, extreme: bool = False) -> Tensor:
    values = torch.randint(-128, 128, size, generator=g, dtype=torch.int32)
    return torch.where(values >= 0, 127, -128).to(torch.int32) if extreme else values


def weights(g: torch.Generator, *size: int, extreme: bool = False) -> Tensor:
    values = torch.randint(-127, 128, size, generator=g, dtype=torch.int32)
    return torch.where(values >= 0, 127, -127).to(torch.int32) if extreme else values


def layer(
    op: Any,
    x: tuple[int, ...],
    weight: tuple[int, ...],
    args: tuple[Any, ...] = (),
    activation: tuple[Any, ...] = (),
    extreme: bool = False,
) -> OpCase:
    g = torch.Generator().manual_seed(1)
    stored, scales = weights(g, *weight, extreme=extreme), torch.rand(weight[0], generator=g) * 0.02 + 0.001
    out = float(0.03 * scales.mean() * 73 * 73 * stored[0].numel() ** 0.5 / 60)
    return OpCase(
        op,
        [integers(g, *x, extreme=extreme)],
        [int8(0.03)],
        int8(out),
        args,
        stored,
        qint8(scales),
        torch.randn(weight[0], generator=g),
        activation=activation,
    )


def moved(op: Any, x: tuple[int, ...], args: tuple[Any, ...], out: float = 0.05) -> OpCase:
    return OpCase(op, [integers(torch.Generator().manual_seed(2), *x)], [int8(0.05)], int8(out), args)


def pair(op: Any, **options: Any) -> OpCase:
    g = torch.Generator().manual_seed(3)
    return OpCase(
        op, [integers(g, 2, 6, 9), integers(g, 2, 6, 9)], [int8(0.05), int8(0.05)], int8(0.07), **options
    )


_CONV = ([1, 1], [1, 1], [1, 1])
CASES = {
    "conv2d": layer(aten.conv2d.default, (2, 8, 9, 9), (12, 8, 3, 3), (*_CONV, 1)),
    "conv2d-extreme": layer(aten.conv2d.default, (1, 64, 5, 5), (4, 64, 3, 3), (*_CONV, 1), extreme=True),
    "conv2d-relu": layer(aten.conv2d.default, (2, 8, 9, 9), (12, 8, 3, 3), (*_CONV, 1), (aten.relu.default,)),
    "conv2d-relu6": layer(
        aten.conv2d.default, (2, 8, 9, 9), (12, 8, 3, 3), (*_CONV, 1), (aten.hardtanh.default, 0, 6)
    ),
    "conv2d-silu": layer(aten.conv2d.default, (2, 8, 9, 9), (12, 8, 3, 3), (*_CONV, 1), (aten.silu.default,)),
    "depthwise-hardswish": layer(
        aten.conv2d.default, (2, 12, 9, 9), (12, 1, 3, 3), (*_CONV, 12), (aten.hardswish.default,)
    ),
    "conv3d": layer(aten.conv3d.default, (1, 4, 5, 5, 5), (6, 4, 3, 3, 3), ([1] * 3, [1] * 3, [1] * 3, 1)),
    "linear": layer(aten.linear.default, (5, 33), (17, 33)),
    "linear-gelu": layer(aten.linear.default, (5, 4, 33), (17, 33), activation=(aten.gelu.default,)),
    "add": pair(aten.add.Tensor),
    "add-relu": pair(aten.add.Tensor, activation=(aten.relu.default,)),
    "mul": OpCase(
        aten.mul.Tensor,
        [integers(torch.Generator().manual_seed(4), 2, 6, 9), integers(torch.Generator().manual_seed(5), 2, 6, 1)],
        [int8(0.05), int8(0.01)],
        int8(0.02),
    ),
    "matmul": OpCase(
        aten.matmul.default,
        [integers(torch.Generator().manual_seed(4), 2, 6, 9), integers(torch.Generator().manual_seed(5), 2, 9, 7)],
        [int8(0.05), int8(0.01)],
        int8(0.1),
    ),
    "avg_pool2d": moved(aten.avg_pool2d.default, (2, 4, 9, 9), ([3, 3], [2, 2], [1, 1], False, False), 0.03),
    "avg_pool2d-counted": moved(aten.avg_pool2d.default, (2, 4, 9, 9), ([3, 3], [2, 2], [1, 1]), 0.03),
    "global": moved(aten.adaptive_avg_pool2d.default, (2, 4, 9, 9), ([1, 1],), 0.01),
    "mean": moved(aten.mean.dim, (2, 4, 9, 9), ([2, 3], False), 0.01),
    "relu": moved(aten.relu.default, (2, 4, 9), (), 0.03),
}
EXACT = {
    "max_pool2d": moved(aten.max_pool2d.default, (2, 4, 9, 9), ([3, 3], [2, 2], [1, 1])),
    "permute": moved(aten.permute.default, (2, 4, 9), ([0, 2, 1],)),
    "slice": moved(aten.slice.Tensor, (2, 4, 9), (1, 1, 3)),
    "cat": OpCase(
        aten.cat.default,
        [integers(torch.Generator().manual_seed(6), 2, 3, 9), integers(torch.Generator().manual_seed(7), 2, 2, 9)],
        [int8(0.05), int8(0.05)],
        int8(0.05),
        (1,),
        listed=True,
    ),
    "upsample": moved(aten.upsample_nearest2d.vec, (2, 4, 5, 5), (None, [2.0, 2.0])),
}


@pytest.mark.parametrize("name", CASES)
def test_a_computed_result_is_within_one_and_nearly_always_exact(name: str, tmp_path: Path) -> None:
    off = off_by(CASES[name], backend, tmp_path)  # type: ignore[arg-type]
    assert int(off.abs().max()) <= 1
    assert float((off != 0).float().mean()) <= 0.002


@pytest.mark.parametrize("name", EXACT)
def test_what_only_moves_is_exact(name: str, tmp_path: Path) -> None:
    assert not off_by(EXACT[name], backend, tmp_path).any()  # type: ignore[arg-type]
