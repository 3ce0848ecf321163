"""How each engine runs what torch's own kernels get wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch._ops import OpOverload

from .grouping import ConvShape, Road, fbgemm_road, onednn_road, x86_road
from .transposed import TransposedShape, TransposeRoad, fbgemm_transpose, onednn_transpose, x86_transpose


@dataclass(frozen=True, slots=True)
class Roads:
    """`conv` for convolutions, `transpose` for transposed ones (a text: why there is no right way).

    `lowerings` has the ops that this engine runs otherwise than the others: what a `Builder` and an `IntegerStep`
    become. `clamps_any_layout`: whether its clamp is right on tensors that are not contiguous.
    """

    conv: Callable[[ConvShape], Road]
    transpose: Callable[[TransposedShape], TransposeRoad | str]
    lowerings: Mapping[OpOverload, Callable[..., Any]] = field(default_factory=dict)
    clamps_any_layout: bool = True


FBGEMM = Roads(fbgemm_road, fbgemm_transpose)
X86 = Roads(x86_road, x86_transpose)
ONEDNN = Roads(onednn_road, onednn_transpose)
