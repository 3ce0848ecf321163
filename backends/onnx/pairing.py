"""Which weights onnxruntime's kernels sum in pairs of 16 bits on x86 without VNNI.

MLAS multiplies uint8 by int8 matrices (QLinearConv as im2col, QGemm, QLinearMatMul) with the weights of one
output in a row, taps outside, channels of the group inside, two neighbours at a time. Depthwise convolutions (one
channel in and one out for each group) have a kernel of their own, which sums in 32 bits. Settled with onnxruntime
1.31 on an emulated Haswell (AVX2); by its source, the AVX-512 kernels pair the same way.
"""

from __future__ import annotations

from torch import Tensor

from ...compiler.ir.ops import CONV, CONV_TRANSPOSE
from ...compiler.quant.program import IntegerStep
from ...compiler.quant.saturation import in_one_row, unpaired
from .emit_integer import phase_weight
from .emit_products import spread


def pairing(step: IntegerStep, weight: Tensor) -> Tensor:
    """The `Pairing` of every product with weights."""
    op, attrs = step.anchor.target, step.attrs
    if op in CONV_TRANSPOSE:
        stride = spread(attrs["stride"], weight.ndim - 2)
        phases, _ = phase_weight(weight, stride, attrs["groups"])
        outputs = weight.shape[1] * attrs["groups"]
        return in_one_row(phases).reshape(outputs, -1)
    if op in CONV and attrs["groups"] == len(weight) > 1 and weight.shape[1] == 1:
        return unpaired(weight)
    return in_one_row(weight)
