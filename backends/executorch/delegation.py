"""What XNNPACK's partitioner took, and why it left the rest to ExecuTorch's portable kernels."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx
from torch._ops import OpOverload

from ...compiler.ir.ops import aten, op_name
from . import libraries

_CONFIGS = "executorch.backends.xnnpack.partition.config"
_SOURCES = ("gemm_configs", "generic_node_configs", "node_configs", "xnnpack_config")


@dataclass(frozen=True, slots=True)
class Delegation:
    """`left` has a line for each node that runs in a portable kernel, `refused` (name, op, reason) of those that
    not even one of them takes."""

    delegates: int
    left: tuple[str, ...]
    refused: tuple[tuple[str, str, str], ...] = ()

    def lines(self) -> list[str]:
        plural = "s" if self.delegates != 1 else ""
        breaks = f"; {len(self.left)} op(s) between or beside them in portable kernels" if self.left else ""
        return [f"{self.delegates} XNNPACK delegate{plural}{breaks}", *self.left]


class _Recorder(logging.Handler):
    """The first reason that the partitioner gives for each node."""

    def __init__(self, reasons: dict[str, str]) -> None:
        super().__init__(logging.DEBUG)
        self._reasons = reasons

    def emit(self, record: logging.LogRecord) -> None:
        why: Any = record.msg
        if isinstance(getattr(why, "node", None), fx.Node):
            self._reasons.setdefault(why.node.name, str(why.reason))


@contextlib.contextmanager
def recording() -> Iterator[dict[str, str]]:
    """Node name -> why the partitioner refused it, which it tells nobody but its loggers."""
    reasons: dict[str, str] = {}
    handler = _Recorder(reasons)
    loggers = [logging.getLogger(f"{_CONFIGS}.{source}") for source in _SOURCES]
    before = [(logger, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
    try:
        yield reasons
    finally:
        for logger, level, propagate in before:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


def explain(graph: fx.Graph, reasons: Mapping[str, str]) -> Delegation:
    """The nodes of a partitioned graph that are in no delegate."""
    delegates, left, refused = 0, [], []
    kernels = portable_kernels()
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if getattr(node.target, "__name__", "") == "executorch_call_delegate":
            delegates += 1
        elif isinstance(op := getattr(node.target, "_op", None), OpOverload):
            left.append(f"portable {node.name} ({op_name(op)}): {reasons.get(node.name, _no_config(node))}")
            if not kernels.has(op):
                refused.append((node.name, op_name(op), "neither XNNPACK nor a portable kernel takes it"))
            elif op is aten.convolution.default and node.meta["val"].ndim > 4:
                refused.append((node.name, op_name(op), "the portable kernel convolves over one or two axes only"))
    return Delegation(delegates, tuple(left), tuple(refused))


def _no_config(node: fx.Node) -> str:
    return "XNNPACK has no such op"


@dataclass(frozen=True, slots=True)
class PortableKernels:
    """Names of the ops (`aten::add`) that the installed runtime has kernels for."""

    names: frozenset[str]

    def has(self, op: OpOverload) -> bool:
        return op._schema.name in self.names


def portable_kernels() -> PortableKernels:
    registry = libraries.load("executorch.runtime").Runtime.get().operator_registry
    return PortableKernels(frozenset(name.partition(".")[0] for name in registry.operator_names))
