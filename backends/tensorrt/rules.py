"""Which aten ops TensorRT runs on int8 in an explicitly quantized network, and what their kernels take in.

By NVIDIA's documentation of TensorRT 10 and 11 (explicit quantization, Q/DQ placement), not by measurement:
convolutions and matrix products take bias, activation and (convolutions) a residual into their kernel, so those
come before the quantize node; pools, sums, products and data movement have int8 kernels; concat and data movement
want equal parameters on both sides. Everything else is float, fused with its neighbours by TensorRT itself.
1-d convolutions are float, since TensorRT makes 2-d ones of them, whose weights would lie behind views; transposed
ones are, since their int8 kernels are limited.
"""

from __future__ import annotations

import torch
from torch._ops import OpOverload

from ...compiler.ir.ops import aten
from ...compiler.quant.fusing import ACTIVATIONS
from ...compiler.quant.qparams import QSpec, quantize
from ...compiler.quant.target import OpRule, TargetSpec
from ..onnx import arithmetic as onnx_arithmetic
from ..onnx.rules import ONNX
from . import arithmetic

INT8 = QSpec(-128, 127, torch.int8, symmetric=True)
WEIGHT = QSpec(-127, 127, torch.int8, symmetric=True, per_channel=True)

_CLAMPS = frozenset({aten.relu.default, aten.hardtanh.default, aten.clamp.default, aten.clamp.Tensor})
_AFTER = _CLAMPS | ACTIVATIONS


def _products() -> dict[OpOverload, OpRule]:
    convolution = OpRule(arithmetic.conv, tolerance=1, fuses=_AFTER, adds=True)
    product = OpRule(arithmetic.matmul, tolerance=1, fuses=_AFTER, check=ONNX.ops[aten.matmul.default].check)
    return {
        aten.conv2d.default: convolution,
        aten.conv3d.default: convolution,
        aten.linear.default: OpRule(
            arithmetic.linear, tolerance=1, fuses=_AFTER, check=ONNX.ops[aten.linear.default].check
        ),
        aten.matmul.default: product,
        aten.bmm.default: product,
        aten.mm.default: product,
    }


def _two_inputs() -> dict[OpOverload, OpRule]:
    def rule(op: OpOverload, function: object) -> OpRule:
        return OpRule(arithmetic.floats(function), tolerance=1, fuses=_AFTER, check=ONNX.ops[op].check)  # type: ignore[arg-type]

    return {
        aten.add.Tensor: rule(aten.add.Tensor, torch.add),
        aten.mul.Tensor: rule(aten.mul.Tensor, torch.mul),
        aten.cat.default: OpRule(arithmetic.concat, shared=True),
    }


def _pools() -> dict[OpOverload, OpRule]:
    windows = (aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default)
    spaces = (
        aten.adaptive_avg_pool1d.default,
        aten.adaptive_avg_pool2d.default,
        aten.adaptive_avg_pool3d.default,
        aten.mean.dim,
    )
    found = {op: (arithmetic.average_pool, ONNX.ops[op].check) for op in windows}
    found |= {op: (arithmetic.global_average, ONNX.ops[op].check) for op in spaces}
    return {op: OpRule(kernel, tolerance=1, check=check) for op, (kernel, check) in found.items()}


def _moves() -> dict[OpOverload, OpRule]:
    """What moves or selects elements, as for onnxruntime: the integers themselves, parameters shared."""
    clamp = OpRule(onnx_arithmetic.clamp, tolerance=1)
    return {
        **{op: rule for op, rule in ONNX.ops.items() if rule.shared},
        aten.relu.default: clamp,
        aten.hardtanh.default: clamp,
        aten.clamp.default: clamp,
    }


TENSORRT = TargetSpec(
    name="tensorrt",
    activation=INT8,
    weight=WEIGHT,
    bias="float32",
    ops={**_moves(), **_products(), **_two_inputs(), **_pools()},
    quantize=quantize,
    float_results=True,
    float_tolerance=0.1,
    own_runtime=False,
    float_prepared=True,  # calibration.cache is for it
    notes=(
        "No TensorRT engine was built: the model ran in onnxruntime, operator by operator (optimizer off), and "
        "its structure keeps TensorRT's rules. build_engine.py or trtexec.sh builds the engine with TensorRT 10 "
        "or 11; the script was tested against a stand-in for the library only.",
        "Where TensorRT and a GPU are, `fxedge verify` builds the engine and compares it (written, never run).",
    ),
)
