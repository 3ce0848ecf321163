"""Gains: products with a constant for each channel that a pass put right before or right after an activation.

A factor on a channel does not pass SiLU, GELU or hardswish, since f(s·x) is not s·f(x). A gain on either side lets
channels have other scales before and behind: `x · g -> f -> · h`. It is of use in float only, where it costs one
multiplication for each element: rounded to integers of one scale, its result is as uneven as ever. A model's own
products are none, whatever they look like: the name of the constant tells.
"""

from __future__ import annotations

import math
import re

from torch import fx

from .channelwise import ELEMENTWISE
from .clamps import is_clamp
from .constants import constant
from .nodes import sole_user
from .ops import aten

_SUFFIX = "_channel_gain"


def gain_name(activation: fx.Node) -> str:
    """What the constant of a gain at `activation` is called; a number follows where the name is taken."""
    return f"{activation.name}{_SUFFIX}"


def breaks_scale(node: fx.Node) -> bool:
    """Whether `node` applies a function to each element that grows without bound, but not in proportion."""
    known = ELEMENTWISE.get(node.target)  # type: ignore[call-overload]
    return known is not None and not known.homogeneous and not is_clamp(node) and known.varies[1] == math.inf


def is_gain(node: fx.Node) -> bool:
    """Whether `node` is a gain: `x · constant`, one number for each channel, where `x` is an activation read by
    nothing else or an activation is all that reads the product."""
    gm = node.graph.owning_module
    if node.target is not aten.mul.Tensor or gm is None or not isinstance(node.args[0], fx.Node):
        return False
    source, stored = node.args[0], constant(gm, node.args[1])
    if stored is None or sum(size > 1 for size in stored.shape) != 1:
        return False
    if not re.search(rf"{_SUFFIX}(_\d+)?$", str(node.args[1].target)):  # type: ignore[union-attr]
        return False
    reader = sole_user(node)
    return (breaks_scale(source) and sole_user(source) is node) or (reader is not None and breaks_scale(reader))
