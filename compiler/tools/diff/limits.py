"""What may change between two bundles: each limit that was given, and what breaks it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ...ir.errors import InputError
from .compare import BundleDiff, TargetDiff


@dataclass(frozen=True, slots=True)
class Limits:
    """None allows anything. `accuracy_drop` and `agreement_drop`: points that may be lost; `sqnr_drop`: dB that
    any one layer may lose; `slowdown` and `growth`: percent that latency and artifact may gain; `new_floats`: ops
    that may newly run in float.

    Latency counts only beyond what noise explains: it is too slow if the whole 95 % interval is.

    Raises:
        InputError: a limit is negative or no number.
    """

    accuracy_drop: float | None = None
    agreement_drop: float | None = None
    sqnr_drop: float | None = None
    slowdown: float | None = None
    growth: float | None = None
    new_floats: int | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise InputError(
                    f"--max-{name.replace('_', '-')} is {value}: it must be a number that is not negative"
                )


def broken_limits(diff: BundleDiff, limits: Limits) -> tuple[str, ...]:
    """A sentence for each limit that is broken. That a target is gone always breaks one."""
    lost = [f"{name} is gone: the new bundle has no such target" for name in diff.lost]
    return (*lost, *(text for found in diff.targets for text in _broken(found, limits)))


def _broken(found: TargetDiff, limits: Limits) -> Iterator[str]:
    name = found.target
    for what, change, limit in (
        ("accuracy", found.accuracy, limits.accuracy_drop),
        ("agreement with float", found.agreement, limits.agreement_drop),
    ):
        if limit is not None and change is not None and -change.points > limit + 1e-9:
            yield f"{name}: {what} fell by {-change.points:.2f} points (allowed {limit:g})"
    if limits.sqnr_drop is not None and found.layers:
        worst = min(found.layers, key=lambda layer: layer.change)
        if -worst.change > limits.sqnr_drop:
            yield f"{name}: the SQNR of {worst.node} fell by {-worst.change:.1f} dB (allowed {limits.sqnr_drop:g})"
    if limits.slowdown is not None and found.latency is not None:
        ratio = found.latency.ratio
        if ratio.low is not None and 100 * (ratio.low - 1) > limits.slowdown:
            yield f"{name}: latency is {ratio.format()} of the old one (allowed {1 + limits.slowdown / 100:g})"
    old, new = found.size
    if limits.growth is not None and 100 * (new - old) > limits.growth * old:
        yield f"{name}: the artifact grew by {100 * (new - old) / old:.1f} % (allowed {limits.growth:g} %)"
    if limits.new_floats is not None and len(found.now_float) > limits.new_floats:
        yield f"{name}: {len(found.now_float)} ops newly run in float (allowed {limits.new_floats})"
