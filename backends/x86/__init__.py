"""x86: torch's default engine, oneDNN for convolutions and fbgemm for linear. As exact as those two."""

from ..torchscript import arithmetic, roads
from ..torchscript.backend import engine_backend
from ..torchscript.pairing import x86_pairing
from ..torchscript.rules import ProductKernels

backend = engine_backend(
    "x86",
    ProductKernels(
        conv=arithmetic.onednn_conv,
        conv_transpose=arithmetic.x86_conv_transpose,
        linear=arithmetic.fbgemm_linear,
    ),
    roads.X86,
    x86_pairing(roads.X86),
    isa=("vnni",),
    notes=(
        "Without VNNI (AVX2, AVX-512) sums of two products saturate in int16 unless compiled for the ISA avx2.",
        "On AVX2, oneDNN's convolutions multiply by s_x·s_w rounded once: 1 LSB on one of about 10^6 integers.",
        "Convolutions of more than 100 groups are merged into fewer: the engine would take fbgemm for them.",
    ),
)
