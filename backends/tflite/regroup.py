"""Reshapes that merge or split neighbouring axes, carried out in the form in which a value is stored."""

from __future__ import annotations

from collections.abc import Sequence

from .values import Form
from .writer import Size

Group = tuple[list[int], list[int]]


def axis_groups(old: Sequence[Size], new: Sequence[Size]) -> list[Group] | None:
    """Runs of old axes and the runs of new ones that hold the same numbers, in order; None where a symbolic size
    is merged or split."""
    groups: list[Group] = []
    i = j = 0
    while i < len(old) and j < len(new):
        left, right = [i], [j]
        if old[i] != new[j]:
            counts = [_number(old[i]), _number(new[j])]
            while None not in counts and counts[0] != counts[1]:
                if counts[0] < counts[1]:  # type: ignore[operator]
                    left.append(left[-1] + 1)
                    counts[0] = _times(counts[0], old, left[-1])
                else:
                    right.append(right[-1] + 1)
                    counts[1] = _times(counts[1], new, right[-1])
            if None in counts:
                return None
        groups.append((left, right))
        i, j = left[-1] + 1, right[-1] + 1
    rest = [list(range(i, len(old))), list(range(j, len(new)))]
    if any(size != 1 for size in (*old[i:], *new[j:])) or not groups:
        return None
    groups[-1] = (groups[-1][0] + rest[0], groups[-1][1] + rest[1])
    return groups


def regrouped_form(old: Sequence[Size], new: Sequence[Size], form: Form) -> Form | None:
    """The form that a tensor stored in `form` has after a reshape from `old` to `new` sizes; None where the
    numbers would have to move."""
    groups = axis_groups(old, new)
    if groups is None:
        return None
    of_axis = {axis: group for group in groups for axis in group[0]}
    made: list[int] = []
    place = 0
    while place < len(form):
        left, right = of_axis[form[place]]
        if list(form[place : place + len(left)]) != left:
            return None
        made += right
        place += len(left)
    return tuple(made)


def _number(size: Size) -> int | None:
    return size if isinstance(size, int) else None


def _times(count: int | None, sizes: Sequence[Size], axis: int) -> int | None:
    size = sizes[axis] if axis < len(sizes) else None
    return count * size if isinstance(size, int) and count is not None else None
