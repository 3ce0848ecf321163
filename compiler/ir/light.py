"""Light layers: depthwise convolutions, which sum so few products that integers alone do not pay for them.

One of 3 × 3 takes 9 products for each element. Where what it reads and what it gives are float, to quantize the
one and to dequantize the other costs about what the integer kernel saves, and both are rounded for it. YOLOX-Nano
(30 of them between SiLUs, 4 % of its multiplications) with all of them in float: see `docs/runtimes/torch.md`.
"""

from __future__ import annotations

from torch import fx

from .constants import constant
from .ops import CONV, bound_args

_PRODUCTS = 32  # for each element; 5 × 5 are 25


def is_light(node: fx.Node) -> bool:
    """Whether `node` is a depthwise convolution with a stored weight of at most 32 products for each element."""
    gm = node.graph.owning_module
    weight = constant(gm, node.args[1]) if node.target in CONV and gm is not None else None
    if weight is None or weight.ndim < 3 or weight.shape[1] != 1:
        return False
    return bound_args(node)["groups"] > 1 and weight[0].numel() <= _PRODUCTS
