"""The table of lowerings to TFLite operators, and what each is given.

One lowering serves both kinds of step: with `qparams` an op gives integers of these parameters, without it floats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ...compiler.ir.sizes import Size, shape
from ...compiler.quant.program import IntegerStep
from ...compiler.quant.qparams import QParams
from ..lowering_table import LoweringTable
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

lowerings: LoweringTable[Lowering] = LoweringTable()


def elementwise(w: Writer, call: Call, code: str, **options: Any) -> Value:
    """An op of one operand that keeps its sizes, in whatever form the operand has."""
    x = call.value("self")
    form = x.preferred()
    tensor = read(w, x, form)
    kind = None if call.qparams is not None else tensor.dtype
    made = w.op(code, [tensor], tensor.shape, call.name, dtype=kind, qparams=call.qparams, **options)
    return call.result(made, form)
