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
        for node in list(gm.graph.nodes):
            if not is_quantize(node):
                continue
            same = _same_integers(node)
            if same is not None:
                node.replace_all_uses_with(same)
                gm.graph.erase_node(node)
                changes += 1
        return PassResult(changes)


def _same_integers(node: fx.Node) -> fx.Node | None:
    """An earlier node that already holds exactly the integers of `node`, or None."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if is_dequantize(source) and source.args[1:] == node.args[1:] and is_quantize(source.args[0]):
        inner = source.args[0]
        assert isinstance(inner, fx.Node)
        if inner.args[1:] == node.args[1:]:
            return inner
    for user in source.users:
        if user is node:
            return None
        if user.target is node.target and user.args == node.args:
            return user
    return None
