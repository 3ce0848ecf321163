"""fbgemm: torch's own x86 engine. Exact on VNNI machines, elsewhere where no 16-bit pair sum saturates."""

from ..torchscript import arithmetic, roads
from ..torchscript.backend import engine_backend
from ..torchscript.pairing import fbgemm_pairing
from ..torchscript.rules import ProductKernels

backend = engine_backend(
    "fbgemm",
    ProductKernels(
        conv=arithmetic.fbgemm_conv,
        conv_transpose=arithmetic.fbgemm_conv_transpose,
        linear=arithmetic.fbgemm_linear,
    ),
    roads.FBGEMM,
    fbgemm_pairing(roads.FBGEMM),
    isa=("avx2", "vnni"),
    notes=(
        "Without VNNI (AVX2, AVX-512) sums of two products saturate in int16 unless compiled for the ISA avx2.",
        "Depthwise convolutions run as grouped or two-frame ones, because their own kernels saturate everywhere.",
    ),
)
