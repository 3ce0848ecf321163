"""Activations that a model spells out, put together again: fewer nodes, and one rule per target.

x · sigmoid(x)                   -> silu(x)
hardtanh(x + 3, 0, 6) / 6        -> hardsigmoid(x)      (also times 1/6)
x · hardsigmoid(x)               -> hardswish(x)
(x · hardtanh(x + 3, 0, 6)) / 6  -> hardswish(x)        (also times 1/6)
"""

from __future__ import annotations

import math

from torch import fx
from torch._ops import OpOverload

from ...compiler.ir.nodes import sole_user
from ...compiler.ir.ops import aten, clamp_bounds
from .._rewrite import stand_in

_GATES: dict[object, OpOverload] = {
    aten.sigmoid.default: aten.silu.default,
    aten.hardsigmoid.default: aten.hardswish.default,
}


def gated(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """`x · gate(x)` -> silu or hardswish."""
    left, right = node.args
    for value, gate in ((left, right), (right, left)):
        if not isinstance(gate, fx.Node) or gate.target not in _GATES:
            continue
        if gate.args[0] is value and sole_user(gate) is node:
            return stand_in(gm, node, _GATES[gate.target], (value,))
    return None


def hard(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """A sixth of `hardtanh(x + 3, 0, 6)`, or of that times `x`."""
    inner = _six_times(node)
    if inner is None:
        return None
    if (source := _shifted_clamp(inner)) is not None:
        return stand_in(gm, node, aten.hardsigmoid.default, (source,))
    if inner.target is aten.mul.Tensor:
        left, right = inner.args
        for value, gate in ((left, right), (right, left)):
            if isinstance(gate, fx.Node) and sole_user(gate) is inner and _shifted_clamp(gate) is value:
                return stand_in(gm, node, aten.hardswish.default, (value,))
    return None


def _six_times(node: fx.Node) -> fx.Node | None:
    """y of `y / 6` or `y · (1/6)`, if nothing else reads it."""
    inner, factor = node.args
    if not isinstance(inner, fx.Node) or not isinstance(factor, (int, float)) or sole_user(inner) is not node:
        return None
    expected = 6.0 if node.target is aten.div.Tensor else 1 / 6
    return inner if math.isclose(factor, expected, rel_tol=1e-6) else None


def _shifted_clamp(node: fx.Node) -> fx.Node | None:
    """x of `hardtanh(x + 3, 0, 6)`."""
    if node.target is not aten.hardtanh.default or clamp_bounds(node) != (0.0, 6.0):
        return None
    shifted = node.args[0]
    if not isinstance(shifted, fx.Node) or shifted.target is not aten.add.Tensor:
        return None
    if shifted.args[1:] != (3,) or shifted.kwargs or sole_user(shifted) is not node:
        return None
    source = shifted.args[0]
    return source if isinstance(source, fx.Node) else None
