"""A quantized graph without its quantize nodes: the float model that it stands for (stage QUANTIZED to FLOAT).

Values go on as they were before they were quantized; weights and other integer constants become the numbers that
they stand for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from ..compiler.ir.constants import add_constant, constant
from ..compiler.ir.errors import VerifierError
from ..compiler.ir.nodes import describe
from ..compiler.ir.passes import Numerics, PassContext, PassResult
from ..compiler.ir.qops import is_dequantize, is_quantize
from ..compiler.ir.stages import Stage
from ..compiler.quant.qnodes import read_qparams
from ..compiler.quant.qparams import dequantize


@dataclass(frozen=True, slots=True)
class StripQdq:
    """dequantize(quantize(x))  becomes  x, and dequantize(integer constant) a float constant."""

    name: ClassVar[str] = "strip-qdq"
    requires: ClassVar[Stage] = Stage.QUANTIZED
    ensures: ClassVar[Stage] = Stage.FLOAT
    numerics: ClassVar[Numerics] = "changes"

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> PassResult:
        """Raises VerifierError for integers that the graph reads as an input."""
        changes = 0
        for node in list(gm.graph.nodes):
            if is_dequantize(node):
                node.replace_all_uses_with(_real(gm, node))
                changes += 1
        for node in gm.graph.nodes:
            if is_quantize(node):
                node.replace_all_uses_with(node.args[0], lambda user: user.op == "output")
        return PassResult(changes)


def _real(gm: fx.GraphModule, node: fx.Node) -> fx.Node:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if is_quantize(source):
        value = source.args[0]
        assert isinstance(value, fx.Node)
        return value
    integers = constant(gm, source)
    if integers is None:
        raise VerifierError(
            f"{describe(node)} dequantizes {source.name}, an input of the graph; only constants, and what the "
            "graph quantizes itself, can be compiled"
        )
    return add_constant(gm, f"{source.target}_real", dequantize(integers, read_qparams(gm, node)), node)
