"""How each engine runs the convolutions that torch's own kernels get wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .grouping import ConvShape, Road, fbgemm_road, onednn_road, x86_road
from .transposed import TransposedShape, TransposeRoad, fbgemm_transpose, onednn_transpose, x86_transpose


@dataclass(frozen=True, slots=True)
class Roads:
    """`conv` for convolutions, `transpose` for transposed ones (a text: why there is no right way)."""

    conv: Callable[[ConvShape], Road]
    transpose: Callable[[TransposedShape], TransposeRoad | str]


FBGEMM = Roads(fbgemm_road, fbgemm_transpose)
X86 = Roads(x86_road, x86_transpose)
ONEDNN = Roads(onednn_road, onednn_transpose)
