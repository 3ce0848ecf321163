"""fbgemm: torch's own x86 engine. Exact on VNNI machines; elsewhere its kernels saturate int16 pair sums."""

from ...compiler.quant.target import TargetSpec
from ..torchscript import arithmetic, roads
from ..torchscript.backend import TorchScriptBackend
from ..torchscript.rules import QUINT8, WEIGHT, ProductKernels, products, shared_rows

KERNELS = ProductKernels(
    conv=arithmetic.fbgemm_conv,
    conv_transpose=arithmetic.fbgemm_conv_transpose,
    linear=arithmetic.fbgemm_linear,
)

FBGEMM = TargetSpec(
    name="fbgemm",
    activation=QUINT8,
    weight=WEIGHT,
    bias="float32",
    ops={**products(KERNELS, roads.FBGEMM.transpose), **shared_rows()},
    quantize=arithmetic.quantize,
    isa=("vnni",),
    notes=(
        "Without VNNI (AVX2, AVX-512) every convolution and linear saturates int16 pair sums.",
        "Depthwise convolutions run as grouped or two-frame ones, because their own kernels saturate everywhere.",
    ),
)

backend = TorchScriptBackend(FBGEMM, "fbgemm", roads.FBGEMM)
