"""fbgemm: torch's own x86 engine. Exact on VNNI machines; elsewhere its kernels saturate int16 pair sums."""

from ..torchscript import arithmetic, roads
from ..torchscript.backend import engine_backend
from ..torchscript.rules import ProductKernels

backend = engine_backend(
    "fbgemm",
    ProductKernels(
        conv=arithmetic.fbgemm_conv,
        conv_transpose=arithmetic.fbgemm_conv_transpose,
        linear=arithmetic.fbgemm_linear,
    ),
    roads.FBGEMM,
    notes=(
        "Without VNNI (AVX2, AVX-512) every convolution and linear saturates int16 pair sums.",
        "Depthwise convolutions run as grouped or two-frame ones, because their own kernels saturate everywhere.",
    ),
)
