"""The table of lowerings: aten op -> the function that writes its operators, and the check beside it.

One lowering serves both kinds of step: with `qparams` an op gives integers of these parameters, without it floats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ...compiler.ir.ops import op_name
from ...compiler.ir.sizes import ShapeUnknown, Size, shape
from ...compiler.quant.program import IntegerStep
from ...compiler.quant.qparams import QParams
from .values import Form, Value, held, read
from .writer import Tensor, Writer


@dataclass(frozen=True, slots=True)
class Call:
    """One aten call to lower: `args` by schema name, tensors as `Value`; the result must be named `name`.

    `activation` is the code of a clamp that the operator fuses. `step` is the integer step, None in float.
    """

    node: fx.Node
    name: str
    args: Mapping[str, Any]
    qparams: QParams | None = None
    activation: int = 0
    step: IntegerStep | None = None

    @property
    def sizes(self) -> tuple[Size, ...]:
        return shape(self.node)

    def value(self, key: str) -> Value:
        found = self.args[key]
        assert isinstance(found, Value), f"{self.node.name}: {key} is {found!r}, not a tensor"
        return found

    def stored(self, key: str) -> torch.Tensor | None:
        """The numbers of a constant argument; None where it is absent."""
        found = self.args[key]
        return found.stored if isinstance(found, Value) else None

    def result(self, tensor: Tensor, form: Form | None = None) -> Value:
        return held(tensor, self.sizes, form)


Lowering = Callable[[Writer, Call], "Value | tuple[Value, ...]"]
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


def elementwise(w: Writer, call: Call, code: str, **options: Any) -> Value:
    """An op of one operand that keeps its sizes, in whatever form the operand has."""
    x = call.value("self")
    form = x.preferred()
    tensor = read(w, x, form)
    kind = None if call.qparams is not None else tensor.dtype
    made = w.op(code, [tensor], tensor.shape, call.name, dtype=kind, qparams=call.qparams, **options)
    return call.result(made, form)


def _full_name(target: Any) -> str:
    return f"{getattr(target, 'namespace', 'python')}.{op_name(target)}"
