"""Activations in the other 8-bit type (stage QUANTIZED): int8 becomes uint8, or uint8 int8, as the target has it.

Integers and zero points move by 128, so that they stand for the same numbers; the middle of uint8 is the zero
point 0 of a symmetric target. Graphs quantized for other runtimes need it; those made by `InsertQdq` have the
target's own type. Integers that the graph itself gives back are left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ..compiler.ir.ops import bound_args
from ..compiler.ir.passes import Numerics, PassContext, PassResult, Skip
from ..compiler.ir.qops import DQ, Q, is_quantize
from ..compiler.ir.stages import Stage

_BY_TYPE = {torch.int8: 128, torch.uint8: -128}


@dataclass(frozen=True, slots=True)
class ShiftActivations:
    """quantize(x, scale, zero, int8)  becomes  quantize(x, scale, zero + 128, uint8), or the other way round."""

    name: ClassVar[str] = "shift-activations"
    requires: ClassVar[Stage] = Stage.QUANTIZED
    ensures: ClassVar[Stage] = Stage.QUANTIZED
    numerics: ClassVar[Numerics] = "exact"

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> PassResult:
        if ctx.target is None:
            return PassResult(0)
        changes, skipped, wanted = 0, [], ctx.target.activation.dtype
        for node in gm.graph.nodes:
            if node.target is not Q or bound_args(node)["dtype"] is wanted:
                continue
            if (reason := _reason(node)) is not None:
                skipped.append(Skip(node.name, reason))
                continue
            for each in (node, *node.users):
                _shift(each, wanted)
            changes += 1
        return PassResult(changes, tuple(skipped))


def _reason(node: fx.Node) -> str | None:
    if bound_args(node)["dtype"] not in _BY_TYPE:
        return "its integers do not have 8 bits"
    if not all(user.target is DQ for user in node.users):
        return "the graph gives back its integers"
    return None


def _shift(node: fx.Node, wanted: torch.dtype) -> None:
    args = bound_args(node)
    by = _BY_TYPE[args["dtype"]]
    limits = (args["quant_min"] + by, args["quant_max"] + by)
    node.args = (node.args[0], args["scale"], args["zero_point"] + by, *limits, wanted)
    node.kwargs = {}
    assert is_quantize(node) or node.target is DQ
