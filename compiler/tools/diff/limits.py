"""What may change between two bundles: each limit that was given, and what breaks it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ...ir.errors import InputError
from ..tables import plural
from .compare import BundleDiff, LatencyChange, ShareChange, TargetDiff


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
    """A sentence for each limit that is broken or could not be checked. That a target is gone breaks one, too."""
    lost = [f"{name} is gone: the new bundle has no such target" for name in diff.lost]
    return (*lost, *(f"{found.target}: {text}" for found in diff.targets for text in _broken(found, limits)))


def _broken(found: TargetDiff, limits: Limits) -> Iterator[str]:
    yield from _fallen("accuracy", found.accuracy, limits.accuracy_drop)
    yield from _fallen("agreement with float", found.agreement, limits.agreement_drop)
    if limits.sqnr_drop is not None:
        worst = min(found.layers, key=lambda layer: layer.change, default=None)
        if worst is None:
            yield _unchecked("sqnr_drop", "no layer's error is known in both")
        elif -worst.change > limits.sqnr_drop:
            yield f"the SQNR of {worst.node} fell by {-worst.change:.1f} dB (allowed {limits.sqnr_drop:g})"
    if limits.slowdown is not None:
        yield from _slower(found.latency, limits.slowdown)
    old, new = found.size
    if limits.growth is not None and 100 * (new - old) > limits.growth * old:
        yield f"the artifact grew by {100 * (new - old) / max(old, 1):.1f} % (allowed {limits.growth:g} %)"
    if limits.new_floats is not None:
        if not found.has_layers:
            yield _unchecked("new_floats", "a bundle does not say what its ops run as")
        elif len(found.now_float) > limits.new_floats:
            yield f"{plural(len(found.now_float), 'op')} newly in float (allowed {limits.new_floats})"


def _fallen(what: str, change: ShareChange | None, limit: float | None) -> Iterator[str]:
    if limit is None:
        return
    if change is None:
        yield f"{what} could not be checked: a bundle does not have it"
    elif -change.points > limit + 1e-9:
        yield f"{what} fell by {-change.points:.2f} points (allowed {limit:g})"


def _slower(latency: LatencyChange | None, limit: float) -> Iterator[str]:
    if latency is None or latency.ratio.low is None:
        yield _unchecked("slowdown", "there are no latencies, or too few runs")
    elif 100 * (latency.ratio.low - 1) > limit:
        yield f"latency is {latency.ratio.format()} of the old one (allowed {1 + limit / 100:g})"


def _unchecked(limit: str, why: str) -> str:
    return f"{_flag(limit)} could not be checked: {why}"


def _flag(limit: str) -> str:
    return f"--max-{limit.replace('_', '-')}"
