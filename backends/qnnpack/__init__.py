"""qnnpack: torch's engine for phones, as a `.ptl` for the lite interpreter. Exact on every instruction set."""

from ...compiler.quant.target import TargetSpec
from ..torchscript.arithmetic import quantize
from ..torchscript.backend import TorchScriptBackend
from ..torchscript.grouping import Road
from ..torchscript.roads import Roads
from ..torchscript.rules import QUINT8, WEIGHT
from ..torchscript.transposed import TransposeRoad
from .lowering import LOWERINGS
from .rules import rows

backend = TorchScriptBackend(
    TargetSpec(
        name="qnnpack",
        activation=QUINT8,
        weight=WEIGHT,
        bias="int32",
        ops=rows(),
        quantize=quantize,
        isa=("avx2", "vnni", "neon"),
        notes=(
            "The lite interpreter has no optimizer: float ops between integer ones run one by one.",
            "Weights are packed on the first run, so that one takes longer.",
        ),
        saturation={"avx2": None, "vnni": None, "neon": None},
    ),
    "qnnpack",
    Roads(lambda shape: Road(), lambda shape: TransposeRoad.PLAIN, LOWERINGS, clamps_any_layout=False),
    artifact="model.ptl",
)
