"""onednn: oneDNN for convolutions and linear. Exact on VNNI machines, elsewhere where no 16-bit pair sum
saturates."""

import functools

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
    isa=("avx2", "vnni"),
    notes=(
        "Without VNNI (AVX2, AVX-512) sums of two products saturate in int16 unless compiled for the ISA avx2.",
        "On AVX2 it multiplies the scales of input and weight first: 1 LSB on one of about 10^6 integers.",
    ),
    without_vnni={
        "avx2": ProductKernels(
            conv=functools.partial(arithmetic.onednn_conv, joined=True),
            conv_transpose=functools.partial(arithmetic.onednn_conv_transpose, joined=True),
            linear=functools.partial(arithmetic.onednn_linear, joined=True),
        )
    },
)
