"""The table of lowerings: aten op -> the function that writes its ONNX nodes, and the check beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ...compiler.ir.ops import op_name
from ...compiler.ir.sizes import ShapeUnknown, Size, dtype, shape
from .writer import Writer


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor (or a symbolic size, as int64 [1]) that an op reads: its ONNX name and its fx node."""

    name: str
    node: fx.Node

    @property
    def shape(self) -> tuple[Size, ...]:
        return shape(self.node)

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        return dtype(self.node)


@dataclass(frozen=True, slots=True)
class Call:
    """One aten call to lower: `args` by schema name, tensors as `Value`; the result must be named `name`."""

    node: fx.Node
    name: str
    args: Mapping[str, Any]

    def tensor(self, key: str) -> Value:
        value = self.args[key]
        assert isinstance(value, Value), f"{self.node.name}: {key} is {value!r}, not a tensor"
        return value

    def optional(self, key: str) -> str:
        """ONNX name of an optional tensor; empty where it is absent."""
        value = self.args[key]
        return value.name if isinstance(value, Value) else ""


Lowering = Callable[[Writer, Call], "str | tuple[str, ...]"]
Check = Callable[[fx.Node], "str | None"]


class LoweringTable:
    """Aten targets and how to write each. Coverage and emission read the same table."""

    def __init__(self) -> None:
        self._rows: dict[Any, tuple[Lowering, Check | None]] = {}

    def op(self, *targets: Any, check: Check | None = None) -> Callable[[Lowering], Lowering]:
        """Register a lowering for every target; registering a target twice is an error."""

        def register(lowering: Lowering) -> Lowering:
            for target in targets:
                if target in self._rows:
                    raise ValueError(f"{op_name(target)} has two lowerings")
                self._rows[target] = (lowering, check)
            return lowering

        return register

    def __getitem__(self, target: Any) -> Lowering:
        return self._rows[target][0]

    def reason(self, node: fx.Node) -> str | None:
        """Why `node` cannot be lowered, or None."""
        row = self._rows.get(node.target)
        if row is None:
            return "no lowering"
        try:
            return None if row[1] is None else row[1](node)
        except ShapeUnknown as error:
            return str(error)

    def unsupported(self, nodes: Sequence[fx.Node]) -> list[tuple[str, str, str]]:
        """(node, op, reason) of every node that cannot be lowered."""
        found = ((node, self.reason(node)) for node in nodes)
        return [(node.name, _full_name(node.target), reason) for node, reason in found if reason is not None]


lowerings = LoweringTable()


def _full_name(target: Any) -> str:
    return f"{getattr(target, 'namespace', 'python')}.{op_name(target)}"
