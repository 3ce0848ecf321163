"""The table of lowerings: aten op -> the function that writes it in a format, and the check beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from torch import fx

from ..compiler.ir.ops import op_name
from ..compiler.ir.sizes import ShapeUnknown

Lowering = TypeVar("Lowering")
Check = Callable[[fx.Node], "str | None"]


class LoweringTable(Generic[Lowering]):
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


def _full_name(target: Any) -> str:
    return f"{getattr(target, 'namespace', 'python')}.{op_name(target)}"
