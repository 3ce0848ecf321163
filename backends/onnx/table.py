"""The table of lowerings to ONNX nodes, and what each is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ...compiler.ir.sizes import Size, dtype, shape
from ..lowering_table import LoweringTable
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

lowerings: LoweringTable[Lowering] = LoweringTable()
