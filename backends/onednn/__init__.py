"""onednn: oneDNN for convolutions and linear. Exact on VNNI machines."""

from ...compiler.quant.target import TargetSpec
from ..torchscript import arithmetic, roads
from ..torchscript.backend import TorchScriptBackend
from ..torchscript.rules import QUINT8, WEIGHT, ProductKernels, products, shared_rows

KERNELS = ProductKernels(
    conv=arithmetic.onednn_conv,
    conv_transpose=arithmetic.onednn_conv_transpose,
    linear=arithmetic.onednn_linear,
)

ONEDNN = TargetSpec(
    name="onednn",
    activation=QUINT8,
    weight=WEIGHT,
    bias="float32",
    ops={**products(KERNELS, roads.ONEDNN.transpose), **shared_rows()},
    quantize=arithmetic.quantize,
    isa=("vnni",),
    notes=("Without VNNI (AVX2, AVX-512) convolutions and linear saturate int16 pair sums.",),
)

backend = TorchScriptBackend(ONEDNN, "onednn", roads.ONEDNN)
