"""The part of a value's range that its readers can tell apart.

hardswish gives 0 for everything below -3: integers spent there are wasted, and where a convolution in front of it
reaches down to -35 most of them are. Calibration leaves out what no reader sees.

Exact for hardswish, hardsigmoid, relu and clamps. For the rest the interval is where the function is not yet
within 0.003 of what it tends to, which is below what an 8-bit result shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import fx
from torch._ops import OpOverload

from ..ir.ops import aten, clamp_bounds
from .plan import Group

_INF = math.inf
Interval = tuple[float, float]
EVERYTHING: Interval = (-_INF, _INF)

# Outside the interval the op's result is (nearly) constant.
_VARIES: Mapping[OpOverload, Interval] = {
    aten.hardswish.default: (-3.0, _INF),
    aten.hardsigmoid.default: (-3.0, 3.0),
    aten.sigmoid.default: (-6.0, 6.0),
    aten.tanh.default: (-3.3, 3.3),
    aten.silu.default: (-8.0, _INF),
    aten.gelu.default: (-3.3, _INF),
}


def useful_range(gm: fx.GraphModule, group: Group) -> Interval:
    """The smallest interval outside of which no reader of the group's values gives another result."""
    nodes = {node.name: node for node in gm.graph.nodes if node.name in group.members}
    low, high = _INF, -_INF
    for node in nodes.values():
        for reader in node.users:
            if reader.name in nodes:  # it moves the numbers within the group, where its own readers are asked
                continue
            varies = _varies(reader)
            low, high = min(low, varies[0]), max(high, varies[1])
    return (low, high) if low < high else EVERYTHING


def _varies(reader: fx.Node) -> Interval:
    return clamp_bounds(reader) or _VARIES.get(reader.target, EVERYTHING)  # type: ignore[call-overload]
