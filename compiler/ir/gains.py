"""Gains: products with a constant for each channel that stand right before or right after an activation.

A factor on a channel does not pass SiLU, GELU or hardswish, since f(s·x) is not s·f(x). A gain on either side lets
channels have other scales before and behind: `x · g -> f -> · h`. It is of use in float only, where it costs one
multiplication for each element: rounded to integers of one scale, its result is as uneven as ever.
"""

from __future__ import annotations

from torch import fx

from .channelwise import ELEMENTWISE
from .clamps import is_clamp
from .constants import constant
from .nodes import sole_user
from .ops import aten


def breaks_scale(node: fx.Node) -> bool:
    """Whether `node` applies one function to each element through which no factor passes."""
    known = ELEMENTWISE.get(node.target)  # type: ignore[call-overload]
    return known is not None and not known.homogeneous and not is_clamp(node)


def is_gain(node: fx.Node) -> bool:
    """Whether `node` is `x · constant`, one number for each channel, and `x` is an activation read by nothing else
    or an activation is all that reads the product."""
    gm = node.graph.owning_module
    if node.target is not aten.mul.Tensor or gm is None or not isinstance(node.args[0], fx.Node):
        return False
    source, stored = node.args[0], constant(gm, node.args[1])
    if stored is None or stored.numel() in (0, 1) or sum(size > 1 for size in stored.shape) != 1:
        return False
    reader = sole_user(node)
    return (breaks_scale(source) and sole_user(source) is node) or (reader is not None and breaks_scale(reader))
