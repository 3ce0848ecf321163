"""Forms of values: what is turned, what only changes its name."""

from __future__ import annotations

import itertools
import math

import torch
from fxedge.backends.tflite.regroup import axis_groups, regrouped_form
from fxedge.backends.tflite.values import channels_last, constant_value, held, in_form, natural, read
from fxedge.backends.tflite.writer import Writer
from hypothesis import given
from hypothesis import strategies as st


def test_forms() -> None:
    assert channels_last(5) == (0, 2, 3, 4, 1)
    assert channels_last(4) == (0, 2, 3, 1)
    assert channels_last(2) == natural(2) == (0, 1)
    assert in_form(("b", 3, 8, 9), channels_last(4)) == ("b", 8, 9, 3)


def test_a_form_is_written_once() -> None:
    w = Writer()
    value = held(w.tensor("x", ("b", 3, 8, 9)), ("b", 3, 8, 9))
    turned = read(w, value, channels_last(4))
    assert read(w, value, channels_last(4)) is turned
    assert [op.code for op in w.operators] == ["TRANSPOSE"]
    assert turned.shape == ("b", 8, 9, 3)


def test_moving_an_axis_of_size_one_is_a_reshape() -> None:
    w = Writer()
    read(w, held(w.tensor("x", ("b", 1, 8, 9)), ("b", 1, 8, 9)), channels_last(4))
    read(w, held(w.tensor("y", ("b", 5, 1, 1)), ("b", 5, 1, 1)), channels_last(4))
    assert [op.code for op in w.operators] == ["RESHAPE", "RESHAPE"]


def test_a_constant_is_turned_now() -> None:
    w = Writer()
    stored = torch.arange(24.0).reshape(2, 3, 4)
    tensor = read(w, constant_value(stored), (0, 2, 1))
    assert w.operators == []
    assert tensor.constant is not None
    assert tensor.constant.tolist() == stored.permute(0, 2, 1).tolist()


def test_groups_of_axes() -> None:
    assert axis_groups(("b", 8, 6, 6), ("b", 8, 36)) == [([0], [0]), ([1], [1]), ([2, 3], [2])]
    assert axis_groups(("b", 8, 36), ("b", 2, 4, 36)) == [([0], [0]), ([1], [1, 2]), ([2], [3])]
    assert axis_groups(("b", 4, 6), ("b", 8, 3)) == [([0], [0]), ([1, 2], [1, 2])]
    assert axis_groups(("b", 4), ("4*b",)) is None
    assert axis_groups((2, 3), (2, 3, 1)) == [([0], [0]), ([1], [1, 2])]


def test_spatial_axes_merge_where_channels_lie_last() -> None:
    assert regrouped_form(("b", 8, 6, 6), ("b", 8, 36), channels_last(4)) == channels_last(3)
    assert regrouped_form(("b", 8, 6, 6), ("b", 288), channels_last(4)) is None


@given(st.data())
def test_a_regrouped_form_holds_the_same_numbers(data: st.DataObject) -> None:
    old = data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    cuts = [k for k in range(1, math.prod(old) + 1) if math.prod(old) % k == 0]
    first = data.draw(st.sampled_from(cuts))
    new = data.draw(st.sampled_from([[first, math.prod(old) // first], [old[0], math.prod(old[1:])], [*old, 1]]))
    form = data.draw(st.sampled_from(list(itertools.permutations(range(len(old))))))
    made = regrouped_form(old, new, form)
    if made is None:
        return
    value = torch.arange(math.prod(old)).reshape(old)
    stored = value.permute(form).reshape([new[axis] for axis in made])
    assert torch.equal(stored, value.reshape(new).permute(made))
