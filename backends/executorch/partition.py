"""ExecuTorch's XNNPACK partitioner, told of more that XNNPACK and ExecuTorch's serializer for it take.

Its stock configurations leave some integer ops in float that the delegate runs on int8: sums and products whose
activation is a hardtanh, zero padding, elementwise functions (a table of 256 entries).
"""

from __future__ import annotations

from typing import Any

from . import libraries

_XNNPACK = "executorch.backends.xnnpack.partition"
_FUSED = ("AddConfig", "SubConfig", "MulConfig")
_INTEGER_TOO = (
    "ConstantPadConfig",
    "SigmoidConfig",
    "TanhConfig",
    "HardswishConfig",
    "LeakyReLUConfig",
    "GeluConfig",
)


def partitioner() -> Any:
    """A partitioner with the widened configurations in the place of the stock ones."""
    stock = libraries.load(f"{_XNNPACK}.config").ALL_PARTITIONER_CONFIGS
    widened = dict.fromkeys(_FUSED, _fusing) | dict.fromkeys(_INTEGER_TOO, _integer_too)
    configs = [widened[config.__name__](config) if config.__name__ in widened else config for config in stock]
    return libraries.load(f"{_XNNPACK}.xnnpack_partitioner").XnnpackPartitioner(configs)


def _fusing(base: Any) -> Any:
    """`base`, taking relu and hardtanh behind its op."""

    class Fusing(base):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.fused_acts = ["relu.default", "hardtanh.default"]

    return Fusing


def _integer_too(base: Any) -> Any:
    """`base`, taking its op between dequantize and quantize too."""
    precision = libraries.load(f"{_XNNPACK}.config.xnnpack_config").ConfigPrecisionType

    class IntegerToo(base):
        def supported_precision_types(self) -> list[Any]:
            return [precision.FP32, precision.STATIC_QUANT]

    return IntegerToo
