"""onednn: oneDNN for convolutions and linear. Exact on VNNI machines."""

from ..torchscript import arithmetic, roads
from ..torchscript.backend import engine_backend
from ..torchscript.rules import ProductKernels

backend = engine_backend(
    "onednn",
    ProductKernels(
        conv=arithmetic.onednn_conv,
        conv_transpose=arithmetic.onednn_conv_transpose,
        linear=arithmetic.onednn_linear,
    ),
    roads.ONEDNN,
    notes=("Without VNNI (AVX2, AVX-512) convolutions and linear saturate int16 pair sums.",),
)
