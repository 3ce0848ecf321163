"""The kernels of arm64 against what onnxruntime 1.31 for aarch64 gave on an emulated Neoverse N1.

Recorded are CRC-32s of its outputs for all pairs of integers, in the order of `_PAIRS`, with a Cortex-A72 and a
Neoverse V1 agreeing. `tests/emulated` runs the real thing.
"""

from __future__ import annotations

import zlib

import pytest
import torch
from fxedge.backends.onnx import arithmetic, neon
from fxedge.backends.onnx.rules import ONNX
from fxedge.compiler.ir.ops import aten
from fxedge.compiler.quant.arithmetic import Kernel, KernelCall
from fxedge.compiler.quant.qparams import QParams
from torch import Tensor

_EVERY = torch.arange(256, dtype=torch.int32)
_PAIRS = torch.cartesian_prod(_EVERY, _EVERY)

# Scale and zero point of both operands and of the result.
ADD = {
    "ties-1": ((0.1, 11), (0.3, 201), (0.4, 7), 0xF724B86C),
    "ties-2": ((0.05, 11), (0.05, 201), (0.1, 0), 0xFA7BB6C0),
    "ties-3": ((0.7, 11), (0.1, 201), (0.2, 128), 0x02991B54),
    "ties-4": ((0.09, 11), (0.03, 201), (0.06, 200), 0x28ABAE55),
    "ties-5": ((1.3, 11), (0.17, 201), (0.34, 33), 0xA65AA19D),
    "negligible-first": ((1e-6, 3), (0.1, 20), (0.1, 5), 0xE5BC5A1F),
    "negligible-second": ((0.1, 20), (1e-6, 3), (0.1, 5), 0x7C643DB2),
    "huge-first": ((30.0, 128), (0.03, 100), (0.1, 128), 0xCCA59C8C),
    "huge-second": ((0.03, 100), (30.0, 128), (0.1, 128), 0x60C4E8D6),
    "both-negligible": ((1e-5, 100), (2e-5, 128), (1.0, 0), 0xD7978EEB),
    "far-apart": ((20.0, 10), (0.003, 200), (0.08, 30), 0x337834C),
}
MUL = {
    "ties-1": ((0.1, 11), (0.3, 201), (4.0, 7), 0x421510B5),
    "ties-2": ((0.05, 11), (0.05, 201), (1.0, 0), 0x060C408D),
    "ties-3": ((0.7, 11), (0.1, 201), (2.0, 128), 0x93473581),
    "ties-4": ((0.09, 11), (0.03, 201), (0.6, 200), 0xCBE9DAEF),
    "ties-5": ((1.3, 11), (0.17, 201), (3.4, 33), 0xEFC51AB4),
}


def uint8(scale: float, zero_point: int) -> QParams:
    return QParams((scale,), (zero_point,), 0, 255, torch.uint8)


def every_pair(kernel: Kernel, *qparams: tuple[float, int]) -> Tensor:
    a, b, out = (uint8(*pair) for pair in qparams)
    operands = _PAIRS[:, 0].contiguous(), _PAIRS[:, 1].contiguous()
    return kernel(KernelCall(operands, (a, b), out, (0, 255), {})).to(torch.uint8)


@pytest.mark.parametrize("case", ADD.values(), ids=ADD.keys())
def test_add_is_that_of_arm64(case) -> None:
    *qparams, recorded = case
    assert zlib.crc32(every_pair(neon.add, *qparams).numpy().tobytes()) == recorded


@pytest.mark.parametrize("case", MUL.values(), ids=MUL.keys())
def test_mul_is_that_of_arm64(case) -> None:
    *qparams, recorded = case
    assert zlib.crc32(every_pair(neon.mul, *qparams).numpy().tobytes()) == recorded


def test_add_is_another_than_that_of_x86_by_one() -> None:
    qparams = ADD["ties-2"][:3]
    off = every_pair(neon.add, *qparams).int() - every_pair(arithmetic.add, *qparams).int()
    assert int((off != 0).sum()) == 10_766
    assert int(off.abs().max()) == 1


def test_the_target_has_these_kernels_on_arm64_and_the_others_elsewhere() -> None:
    other = ONNX.kernels["neon"]
    changed = {op for op, rule in other.ops.items() if rule.kernel != ONNX.ops[op].kernel}
    assert changed == {
        aten.add.Tensor,
        aten.mul.Tensor,
        aten.hardsigmoid.default,
        aten.hardswish.default,
        aten.silu.default,
    }
    assert (other.quantize, other.name, other.kernels) == (ONNX.quantize, "onnx", {})
