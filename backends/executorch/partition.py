"""ExecuTorch's XNNPACK partitioner, told of more that XNNPACK and ExecuTorch's serializer for it take.

Its stock configurations leave some integer ops in float that the delegate runs on int8: sums and products whose
activation is a hardtanh, zero padding, elementwise functions (a table of 256 entries). And they take some
ops on which XNNPACK's compiler then fails (`_TAKEN`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx
from torch._ops import OpOverload
from torch.export import ExportedProgram

from ...compiler.ir.qops import DEQUANTIZE, QUANTIZE
from . import libraries
from .xnn_compiler import compiler

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
    """A partitioner with the changed configurations in the place of the stock ones."""
    stock = libraries.load(f"{_XNNPACK}.config").ALL_PARTITIONER_CONFIGS
    base = libraries.load(f"{_XNNPACK}.xnnpack_partitioner").XnnpackPartitioner
    found = _decomposing_once(base)([_changed(config) for config in stock])
    found.delegation_spec = libraries.load("executorch.exir.backend.partitioner").DelegationSpec(
        compiler().__name__, []
    )
    return found


def _changed(config: Any) -> Any:
    """`config` with every change that its name asks for."""
    name = config.__name__
    for names, change in ((_TAKEN, _limited), (_FUSED, _fusing), (_INTEGER_TOO, _integer_too)):
        config = change(config) if name in names else config
    return config


def _decomposing_once(base: Any) -> Any:
    """`base`, naming the ops to keep once for all nodes: to heed an answer for each node, ExecuTorch decomposes a
    program three times, else once or twice."""

    class DecomposingOnce(base):
        def ops_to_not_decompose(self, ep: ExportedProgram) -> tuple[list[Any], Callable[[fx.Node], bool] | None]:
            kept, takes = super().ops_to_not_decompose(ep)
            nodes = [node for node in ep.graph.nodes if _aten(node) in kept]
            refused = {_aten(node) for node in nodes if not takes(node)}
            if any(_aten(node) in refused and takes(node) for node in nodes):
                return kept, takes  # one op, kept here and decomposed there
            return _others(kept, refused), None

    return DecomposingOnce


def _aten(node: fx.Node) -> Any:
    """The aten op of a node, also of one in ExecuTorch's edge dialect."""
    return node.target if isinstance(node.target, OpOverload) else getattr(node.target, "_op", None)


def _others(ops: Sequence[Any], left_out: set[Any]) -> list[Any]:
    return [op for op in ops if op not in left_out]


def _is_image(node: fx.Node) -> bool:
    return bool(node.meta["val"].ndim == 4)


def _is_of_rows_or_columns(node: fx.Node) -> bool:
    return len(node.args) == 3 and node.args[1] in (2, 3) and node.args[2] is True


def _one_symbol(node: fx.Node) -> bool:
    return sum(not isinstance(size, int) for size in node.meta["val"].shape) <= 1


def _reshapes_one_symbol(node: fx.Node) -> bool:
    """A convolution over one axis is reshaped into one over two."""
    return _is_image(node) or _one_symbol(node)


def _pads_alike(node: fx.Node) -> bool:
    """Between dequantize and quantize, a pad is one of integers: their parameters must be equal."""
    source, readers = node.args[0], [reader for reader in node.users if _aten(reader) in QUANTIZE]
    if not isinstance(source, fx.Node) or _aten(source) not in DEQUANTIZE:
        return True
    return all(reader.args[1:] == source.args[1:] for reader in readers)


_SYMBOLS = "XNNPACK reshapes values with one symbolic size only"
# Configuration -> what XNNPACK's compiler takes of its nodes, and what to say of the others.
_TAKEN = {
    "PreluConfig": (_is_image, "XNNPACK takes images only"),
    "UnsqueezeCopyConfig": (_one_symbol, _SYMBOLS),
    "ViewCopyConfig": (_one_symbol, _SYMBOLS),  # of which the stock one says "invalid dtype"
    "ConvolutionConfig": (_reshapes_one_symbol, _SYMBOLS),
    "ConstantPadConfig": (_pads_alike, "XNNPACK pads integers of equal parameters only"),
    "MaxDimConfig": (_is_of_rows_or_columns, "XNNPACK takes axes 2 and 3 only, and keeps them"),
}


def _limited(base: Any) -> Any:
    """`base`, taking what `_TAKEN` says."""
    takes, reason = _TAKEN[base.__name__]
    why = libraries.load("executorch.exir.backend.utils").WhyNoPartition(logging.getLogger(base.__module__))

    class Limited(base):
        def check_constraints(self, node: fx.Node, ep: ExportedProgram) -> bool:
            if not takes(node):
                why(node, reason)
                return False
            return bool(super().check_constraints(node, ep))

    return Limited


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
