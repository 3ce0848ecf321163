"""The windows of an average pool, cut into runs that QNNPACK gets right.

QNNPACK divides every window by the size of the kernel: right where the kernel lies within the input, or where the
padding counts. Windows cut off at a border (`count_include_pad=False`, `ceil_mode`) are smaller, adaptive windows
may differ in length. Along each axis, neighbouring windows of one length at equal distances are a run; each pair
of runs is one plain pool of a part of the input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Pools into which one may be cut.
MOST_PARTS = 25

Window = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Run:
    """`count` windows of `length` elements, the first at `start`, `stride` apart."""

    start: int
    length: int
    stride: int = 1
    count: int = 1

    @property
    def stop(self) -> int:
        return self.start + (self.count - 1) * self.stride + self.length


@dataclass(frozen=True, slots=True)
class PoolRuns:
    """Runs over height and width, on the input with `padding` zeros (height, width) around it."""

    rows: tuple[Run, ...]
    columns: tuple[Run, ...]
    padding: tuple[int, int] = (0, 0)

    @property
    def parts(self) -> int:
        return len(self.rows) * len(self.columns)


def is_plain(attrs: Mapping[str, Any]) -> bool:
    """Whether QNNPACK runs this avg_pool2d as it is, on any size; a kernel of one element it does not take."""
    counted = attrs["count_include_pad"] or not any(pair(attrs["padding"]))
    return counted and not attrs["ceil_mode"] and pair(attrs["kernel_size"]) != (1, 1)


def pool_runs(attrs: Mapping[str, Any], size: tuple[int, int]) -> PoolRuns:
    """The runs of an avg_pool2d over an input of `size`."""
    kernel, padding = pair(attrs["kernel_size"]), pair(attrs["padding"])
    stride = pair(attrs["stride"]) if attrs["stride"] else kernel
    counted = padding if attrs["count_include_pad"] else (0, 0)
    ceil = attrs["ceil_mode"]
    rows, columns = (
        _runs(_pool_windows(size[axis], kernel[axis], stride[axis], padding[axis], counted[axis], ceil))
        for axis in (0, 1)
    )
    return PoolRuns(rows, columns, counted)


def adaptive_runs(output: Sequence[int], size: tuple[int, int]) -> PoolRuns:
    """The runs of an adaptive_avg_pool2d of an input of `size`."""
    rows, columns = (_runs(_adaptive_windows(size[axis], output[axis])) for axis in (0, 1))
    return PoolRuns(rows, columns)


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """One number for both axes, or one each."""
    values = [value] if isinstance(value, int) else list(value)
    return values[0], values[-1]


def _pool_windows(size: int, kernel: int, stride: int, padding: int, counted: int, ceil: bool) -> list[Window]:
    """On the input with `counted` zeros on either side; `padding` is as the op has it."""
    reach = size + 2 * padding - kernel
    count = (reach + stride - 1 if ceil else reach) // stride + 1
    if ceil and (count - 1) * stride >= size + padding:
        count -= 1  # a window must start in the input or before it
    starts = [index * stride - padding for index in range(count)]
    low, high = -counted, size + counted
    return [(max(start, low) + counted, min(start + kernel, high) + counted) for start in starts]


def _adaptive_windows(size: int, count: int) -> list[Window]:
    return [(index * size // count, -(-(index + 1) * size // count)) for index in range(count)]


def _runs(windows: Sequence[Window]) -> tuple[Run, ...]:
    found: list[Run] = []
    for start, end in windows:
        if found and (longer := _extended(found[-1], start, end - start)) is not None:
            found[-1] = longer
        else:
            found.append(Run(start, end - start))
    return tuple(found)


def _extended(run: Run, start: int, length: int) -> Run | None:
    """`run` and the window after it, if that continues it."""
    distance = start - (run.start + (run.count - 1) * run.stride)
    continues = length == run.length and distance > 0 and (run.count == 1 or distance == run.stride)
    return Run(run.start, length, distance, run.count + 1) if continues else None
