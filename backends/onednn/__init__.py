"""onednn: oneDNN for convolutions and linear. Exact on VNNI machines, elsewhere where no 16-bit pair sum
saturates."""

from ..torchscript import arithmetic, roads
from ..torchscript.backend import engine_backend
from ..torchscript.pairing import onednn_pairing
from ..torchscript.rules import ProductKernels

backend = engine_backend(
    "onednn",
    ProductKernels(
        conv=arithmetic.onednn_conv,
        conv_transpose=arithmetic.onednn_conv_transpose,
        linear=arithmetic.onednn_linear,
    ),
    roads.ONEDNN,
    onednn_pairing(roads.ONEDNN),
    isa=("vnni",),
    notes=(
        "Without VNNI (AVX2, AVX-512) sums of two products saturate in int16 unless compiled for the ISA avx2.",
        "On AVX2, oneDNN's convolutions multiply by s_x·s_w rounded once: 1 LSB on one of about 10^6 integers.",
    ),
)
