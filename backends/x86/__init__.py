"""x86: torch's default engine, oneDNN for convolutions and fbgemm for linear. Exact on VNNI machines."""

from ...compiler.quant.target import TargetSpec
from ..torchscript import arithmetic, roads
from ..torchscript.backend import TorchScriptBackend
from ..torchscript.rules import QUINT8, WEIGHT, ProductKernels, products, shared_rows

KERNELS = ProductKernels(
    conv=arithmetic.onednn_conv,
    conv_transpose=arithmetic.x86_conv_transpose,
    linear=arithmetic.fbgemm_linear,
)

X86 = TargetSpec(
    name="x86",
    activation=QUINT8,
    weight=WEIGHT,
    bias="float32",
    ops={**products(KERNELS, roads.X86.transpose), **shared_rows()},
    quantize=arithmetic.quantize,
    isa=("vnni",),
    notes=(
        "Without VNNI (AVX2, AVX-512) convolutions and linear saturate int16 pair sums.",
        "Convolutions of more than 100 groups are merged into fewer: the engine would take fbgemm for them.",
    ),
)

backend = TorchScriptBackend(X86, "x86", roads.X86)
