"""Disjoint sets against sets."""

from __future__ import annotations

from fxedge.passes.channels.classes import Classes
from hypothesis import given
from hypothesis import strategies as st

COUNT = 8
_PAIRS = st.lists(st.tuples(st.integers(0, COUNT - 1), st.integers(0, COUNT - 1)), max_size=10)


@given(joins=_PAIRS, fixed=st.sets(st.integers(0, COUNT - 1), max_size=3))
def test_joined_channels_are_one_class_and_fixed_together(joins: list[tuple[int, int]], fixed: set[int]) -> None:
    classes = Classes()
    ids = classes.fresh(COUNT)
    sets = [{index} for index in range(COUNT)]
    half = len(joins) // 2

    def join(pairs: list[tuple[int, int]]) -> None:
        for left, right in pairs:
            classes.join(ids[left], ids[right])
            merged = sets[left] | sets[right]
            for index in merged:
                sets[index] = merged

    join(joins[:half])  # it must hold for what joins later as for what joined before
    for index in fixed:
        classes.fix(ids[index], "because")
    join(joins[half:])
    roots = classes.roots(ids)
    for left in range(COUNT):
        for right in range(COUNT):
            assert bool(roots[left] == roots[right]) == (right in sets[left])
        assert classes.is_fixed(ids[left]) == bool(sets[left] & fixed)
        assert (classes.reason(int(roots[left])) == "because") == bool(sets[left] & fixed)


def test_ids_broadcast_place_by_place() -> None:
    classes = Classes()
    channels, one = classes.fresh(3).view(1, 3, 1, 1), classes.fresh(6).view(2, 3, 1, 1)
    classes.join(channels, one)
    assert classes.roots(one).view(2, 3).tolist() == [[0, 1, 2], [0, 1, 2]]
    assert classes.compact(one).shape == (1, 3, 1, 1)


def test_joining_along_an_axis_leaves_one_class_there() -> None:
    classes = Classes()
    ids = classes.fresh(6).view(2, 3)
    assert classes.roots(classes.join_along(ids, [0])).tolist() == [[0, 1, 2]]
    assert classes.roots(ids).tolist() == [[0, 1, 2], [0, 1, 2]]


def test_the_first_reason_stays() -> None:
    classes = Classes()
    first, second = classes.fixed("first"), classes.fixed("second")
    classes.fix(first, "later")
    classes.join(second, first)
    assert classes.reason(int(second)) == "first"
    assert classes.fixed("of rank 0").ndim == 0
