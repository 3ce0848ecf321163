"""Facts about ops that keep channels apart: each channel of the result comes from the channel of the same number.

`ELEMENTWISE` map each element of one tensor by the same function. `WINDOWS` make each element of a window along
the last axes: pools, interpolation, pads that repeat what is there. They scale with their input, as maxima do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch._ops import OpOverload

from .ops import aten

Interval = tuple[float, float]
EVERYTHING: Interval = (-math.inf, math.inf)


@dataclass(frozen=True, slots=True)
class Elementwise:
    """A function of one number, with positive parameters where it has any.

    `homogeneous`: f(s·x) = s·f(x) for s > 0. `lowest`: where its only minimum is, it falls before and rises after;
    -inf if it never falls, None if neither is so. `varies`: outside of it the function is constant, or within
    0.003 of what it tends to (which an 8-bit result does not show); a clamp's follows from its bounds.
    """

    homogeneous: bool = False
    lowest: float | None = None
    varies: Interval = EVERYTHING

    @property
    def rises(self) -> bool:
        """Whether it never falls."""
        return self.lowest == -math.inf


_RISING = -math.inf

ELEMENTWISE: Mapping[OpOverload, Elementwise] = {
    aten.relu.default: Elementwise(homogeneous=True, lowest=_RISING),
    aten.leaky_relu.default: Elementwise(homogeneous=True, lowest=_RISING),
    aten.abs.default: Elementwise(homogeneous=True, lowest=0.0),
    aten.neg.default: Elementwise(homogeneous=True),
    aten.hardtanh.default: Elementwise(lowest=_RISING),
    aten.clamp.default: Elementwise(lowest=_RISING),
    aten.elu.default: Elementwise(lowest=_RISING),
    aten.hardsigmoid.default: Elementwise(lowest=_RISING, varies=(-3.0, 3.0)),
    aten.sigmoid.default: Elementwise(lowest=_RISING, varies=(-6.0, 6.0)),
    aten.tanh.default: Elementwise(lowest=_RISING, varies=(-3.3, 3.3)),
    aten.hardswish.default: Elementwise(lowest=-1.5, varies=(-3.0, math.inf)),
    aten.silu.default: Elementwise(lowest=-1.2784645427610738, varies=(-8.0, math.inf)),
    aten.mish.default: Elementwise(lowest=-1.1924312145),
    aten.gelu.default: Elementwise(varies=(-3.3, math.inf)),  # its minimum depends on `approximate`
    aten.softplus.default: Elementwise(),  # falls by a step at its threshold
}


@dataclass(frozen=True, slots=True)
class Window:
    """Each element is made of a window along the last `spatial` axes.

    `mean`: a mean with weights that are not negative and add up to 1, apart from zeros that a pool pads. `rises`:
    where no element falls, no result falls.
    """

    spatial: int
    mean: bool = True
    rises: bool = True


def _overloads(name: str) -> Iterator[OpOverload]:
    packet = getattr(aten, name)
    yield from (getattr(packet, overload) for overload in ("default", "vec") if overload in packet.overloads())


_MEANS = {
    **{
        name.format(spatial): spatial
        for name in ("avg_pool{}d", "adaptive_avg_pool{}d", "reflection_pad{}d", "replication_pad{}d")
        for spatial in (1, 2, 3)
    },
    **{f"{name}{n}d": n for name in ("upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3)},
    "upsample_linear1d": 1,
    "upsample_bilinear2d": 2,
    "upsample_trilinear3d": 3,
}

MAX_POOLS: Mapping[OpOverload, Window] = {
    aten.max_pool1d.default: Window(1, mean=False),
    aten.max_pool2d.default: Window(2, mean=False),
    aten.max_pool3d.default: Window(3, mean=False),
}
WINDOWS: Mapping[OpOverload, Window] = {
    **{op: Window(spatial) for name, spatial in _MEANS.items() for op in _overloads(name)},
    **MAX_POOLS,
    **{op: Window(2, mean=False, rises=False) for op in _overloads("upsample_bicubic2d")},
}
