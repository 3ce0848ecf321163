"""A graph in the order of execution as lines beside a list: each row a step, each value that is still read a lane.

Drawn as version control draws branches. A step takes over the lane of an input that it reads last, so a chain is a
straight line and a residual connection a line beside it, however long the network is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

ROW, _LANE, _LEFT, _RADIUS = 28, 14, 12, 5.0
_MOST_LANES = 24


@dataclass(frozen=True, slots=True)
class Step:
    """A row: where it is, the value that it makes, those that it reads, how it is drawn."""

    row: int
    name: str
    reads: tuple[str, ...]
    kind: str


@dataclass(frozen=True, slots=True)
class Drawing:
    width: int
    svg: Markup


def draw_lanes(steps: Sequence[Step], rows: int) -> Drawing:
    """`steps` in order, within a list of `rows` rows; other rows are passed by."""
    lanes = assign_lanes(steps)
    width = _LEFT * 2 + _LANE * min(max(lanes.values(), default=0), _MOST_LANES)
    parts = [*_edges(steps, lanes), *(_mark(step, lanes[step.name]) for step in steps)]
    head = f'<svg width="{width}" height="{rows * ROW}" viewBox="0 0 {width} {rows * ROW}" aria-hidden="true">'
    return Drawing(width, Markup(f"{head}{''.join(parts)}</svg>"))


def assign_lanes(steps: Sequence[Step]) -> dict[str, int]:
    """The lane of each step, from 0 on the left."""
    last = _last_reads(steps)
    live: dict[str, int] = {}
    lanes: dict[str, int] = {}
    for step in steps:
        freed = [live.pop(read) for read in dict.fromkeys(step.reads) if read in live and last[read] == step.row]
        taken = set(live.values())
        free = next(lane for lane in range(len(taken) + 1) if lane not in taken)
        lanes[step.name] = min(freed, default=free)
        if step.name in last:
            live[step.name] = lanes[step.name]
    return lanes


def _last_reads(steps: Sequence[Step]) -> Mapping[str, int]:
    return {read: step.row for step in steps for read in step.reads}


def _edges(steps: Sequence[Step], lanes: Mapping[str, int]) -> list[str]:
    """Down the lane of a value to its last reader, and a bend to each reader in another lane."""
    makers = {step.name: step for step in steps}
    ends: dict[str, int] = {}
    bends: list[str] = []
    for step in steps:
        for read in dict.fromkeys(step.reads):
            if (maker := makers.get(read)) is None:
                continue
            straight = lanes[read] == lanes[step.name]
            end = step.row if straight else step.row - 1
            ends[read] = max(ends.get(read, maker.row), end)
            if not straight:
                bends.append(_bend(_x(lanes[read]), _x(lanes[step.name]), step.row, _carries(maker.kind)))
    lines = [
        f'<path class="{_carries(makers[name].kind)}" d="M{_x(lanes[name])} {_y(makers[name].row)}V{_y(end)}"/>'
        for name, end in ends.items()
        if end > makers[name].row
    ]
    return lines + bends


def _bend(start: int, stop: int, row: int, carries: str) -> str:
    top, bottom, middle = _y(row - 1), _y(row), _y(row) - ROW // 2
    return f'<path class="{carries}" d="M{start} {top}C{start} {middle} {stop} {middle} {stop} {bottom}"/>'


def _carries(kind: str) -> str:
    """Which values the step gives: integers or floats."""
    return "ei" if kind in ("int8", "quantize") else "ef"


def _mark(step: Step, lane: int) -> str:
    """A circle for int8, a square for float, a diamond where one becomes the other, a ring at the ends."""
    x, y, r = _x(lane), _y(step.row), _RADIUS
    match step.kind:
        case "float":
            return f'<rect class="m float" x="{x - r}" y="{y - r}" width="{2 * r}" height="{2 * r}"/>'
        case "quantize" | "dequantize":
            return f'<path class="m boundary" d="M{x - 6} {y}L{x} {y - 6}L{x + 6} {y}L{x} {y + 6}Z"/>'
        case "int8":
            return f'<circle class="m int8" cx="{x}" cy="{y}" r="{r}"/>'
    return f'<circle class="m end" cx="{x}" cy="{y}" r="4"/>'


def _x(lane: int) -> int:
    return _LEFT + _LANE * min(lane, _MOST_LANES)


def _y(row: int) -> int:
    return row * ROW + ROW // 2
