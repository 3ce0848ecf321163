"""x86: torch's default engine. With AVX512-VNNI oneDNN for convolutions and fbgemm for linear, without it fbgemm
for both (torch's `should_use_onednn_quant`). Exact on both."""

from ..torchscript import arithmetic, roads
from ..torchscript.backend import engine_backend
from ..torchscript.pairing import fbgemm_pairing
from ..torchscript.rules import ProductKernels

_FBGEMM = ProductKernels(
    conv=arithmetic.fbgemm_conv,
    conv_transpose=arithmetic.fbgemm_conv_transpose,
    linear=arithmetic.fbgemm_linear,
)

backend = engine_backend(
    "x86",
    ProductKernels(
        conv=arithmetic.onednn_conv,
        conv_transpose=arithmetic.x86_conv_transpose,
        linear=arithmetic.fbgemm_linear,
    ),
    roads.X86,
    fbgemm_pairing(roads.X86),
    isa=("avx2", "vnni"),
    notes=(
        "Without VNNI (AVX2, AVX-512) sums of two products saturate in int16 unless compiled for the ISA avx2.",
        "Without AVX512-VNNI the engine takes fbgemm's convolutions instead of oneDNN's, which round otherwise.",
        "Convolutions of more than 100 groups are merged into fewer: the engine would take fbgemm for them.",
    ),
    without_vnni={"avx2": _FBGEMM, "avx512": _FBGEMM},
)
