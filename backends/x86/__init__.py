"""x86: torch's default engine, oneDNN for convolutions and fbgemm for linear. Exact on VNNI machines."""

from ..torchscript import arithmetic, roads
from ..torchscript.backend import engine_backend
from ..torchscript.rules import ProductKernels

backend = engine_backend(
    "x86",
    ProductKernels(
        conv=arithmetic.onednn_conv,
        conv_transpose=arithmetic.x86_conv_transpose,
        linear=arithmetic.fbgemm_linear,
    ),
    roads.X86,
    notes=(
        "Without VNNI (AVX2, AVX-512) convolutions and linear saturate int16 pair sums.",
        "Convolutions of more than 100 groups are merged into fewer: the engine would take fbgemm for them.",
    ),
)
