"""The part of a value's range that its readers can tell apart.

hardswish gives 0 for everything below -3: integers spent there are wasted, and where a convolution in front of it
reaches down to -35 most of them are. Calibration leaves out what no reader sees.

Exact for hardswish, hardsigmoid, relu and clamps. For the rest the interval is where the function is not yet
within 0.003 of what it tends to, which is below what an 8-bit result shows.
"""

from __future__ import annotations

import math

from torch import fx

from ..ir.channelwise import ELEMENTWISE, EVERYTHING, Interval
from ..ir.ops import clamp_bounds
from .plan import Group


def useful_range(gm: fx.GraphModule, group: Group) -> Interval:
    """The smallest interval outside of which no reader of the group's values gives another result."""
    nodes = {node.name: node for node in gm.graph.nodes if node.name in group.members}
    low, high = math.inf, -math.inf
    for node in nodes.values():
        for reader in node.users:
            if reader.name in nodes:  # it moves the numbers within the group, where its own readers are asked
                continue
            varies = _varies(reader)
            low, high = min(low, varies[0]), max(high, varies[1])
    return (low, high) if low < high else EVERYTHING


def _varies(reader: fx.Node) -> Interval:
    function = ELEMENTWISE.get(reader.target)  # type: ignore[call-overload]
    return clamp_bounds(reader) or (EVERYTHING if function is None else function.varies)
