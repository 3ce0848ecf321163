"""Remove quantize/dequantize nodes that say the same thing twice (stage QUANTIZED).

* `dequantize -> quantize` with equal parameters gives back the same integers: readers take the first ones.
* two quantize nodes of one value with equal parameters become one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from ..compiler.ir.passes import Numerics, PassContext, PassResult
from ..compiler.ir.qops import is_dequantize, is_quantize
from ..compiler.ir.stages import Stage


@dataclass(frozen=True, slots=True)
class CleanQdq:
    """quantize(dequantize(q)) with the parameters of q  becomes  q; equal quantize nodes become one."""

    name: ClassVar[str] = "clean-qdq"
    requires: ClassVar[Stage] = Stage.QUANTIZED
    ensures: ClassVar[Stage] = Stage.QUANTIZED
    numerics: ClassVar[Numerics] = "exact"

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> PassResult:
        changes = 0
        seen: dict[tuple[object, ...], fx.Node] = {}
        for node in list(gm.graph.nodes):
            if not is_quantize(node):
                continue
            same = _undone(node) or seen.setdefault((node.target, *node.args), node)
            if same is not node:
                node.replace_all_uses_with(same)
                gm.graph.erase_node(node)
                changes += 1
        return PassResult(changes)


def _undone(node: fx.Node) -> fx.Node | None:
    """The quantize node whose integers `node` only gives back, or None."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    inner = source.args[0] if is_dequantize(source) else None
    if not isinstance(inner, fx.Node) or inner.target is not node.target:
        return None
    return inner if inner.args[1:] == source.args[1:] == node.args[1:] else None
