"""Canonicalize: clamps by constant tensors."""

from __future__ import annotations

import pytest
import torch
from fxedge.passes import Canonicalize
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Calls, Calls2, Case, apply, check_case, inputs
from torch import Tensor

IMAGE = (2, 4, 6, 6)
BOUNDS = torch.tensor([0.5, 1.0, 0.25, 2.0]).reshape(4, 1, 1)

CASES = [
    Case(
        "minimum, maximum and clamps with one bound",
        Calls(
            lambda m, x: (
                torch.minimum(x, m.u),
                torch.maximum(m.u, x),
                torch.clamp_max(x, m.u),
                torch.clamp_min(x, m.u),
                torch.clamp(x, max=m.u),
            ),
            u=BOUNDS,
        ),
        (IMAGE,),
        4,
        """
        %0 = input x
        %1 = clamp.Tensor(%0, None, @u)
        %2 = clamp.Tensor(%0, @u, None)
        %3 = clamp.Tensor(%0, None, @u)
        %4 = clamp.Tensor(%0, @u, None)
        %5 = clamp.Tensor(%0, None, @u)
        return (%1, %2, %3, %4, %5)
        """,
    ),
    Case(
        "two bounds",
        Calls(lambda m, x: torch.clamp(x, m.low, m.u), low=-BOUNDS, u=BOUNDS),
        (IMAGE,),
        0,
        """
        %0 = input x
        %1 = clamp.Tensor(%0, @low, @u)
        return %1
        """,
    ),
    Case(
        "a bound that is one number",
        Calls(
            lambda m, x: torch.clamp(x, m.zero, m.u) + torch.clamp(x, m.u, m.six),
            zero=torch.zeros(4, 1, 1),
            six=torch.full((6,), 6.0),
            u=BOUNDS,
        ),
        (IMAGE,),
        2,
        """
        %0 = input x
        %1 = relu.default(%0)
        %2 = clamp.Tensor(%1, None, @u)
        %3 = clamp.Tensor(%0, @u, None)
        %4 = clamp.default(%3, None, 6)
        %5 = add.Tensor(%2, %4)
        return %5
        """,
    ),
    Case(
        "numbers only, in and out of order",
        Calls(
            lambda m, x: (torch.clamp(x, m.a, m.b), torch.clamp(x, m.b, m.a), torch.minimum(x, m.b)),
            a=torch.tensor(-1.0),
            b=torch.full((4, 1, 1), 2.0),
        ),
        (IMAGE,),
        3,
        """
        %0 = input x
        %1 = hardtanh.default(%0, -1, 2)
        %2 = hardtanh.default(%0, -1, -1)
        %3 = clamp.default(%0, None, 2)
        return (%1, %2, %3)
        """,
    ),
    Case(
        "bounds of another dtype",
        Calls(lambda m, x: torch.minimum(x, m.u), u=torch.nn.Parameter(BOUNDS.half(), requires_grad=False)),
        (IMAGE,),
        1,
        """
        %0 = input x
        %1 = clamp.Tensor(%0, None, @u_cast)
        return %1
        """,
    ),
    Case(
        "what is no clamp by constants",
        Calls2(
            lambda m, x, y: (torch.minimum(x, y), torch.minimum(x[:, :1], m.u)),
            u=BOUNDS,
        ),
        (IMAGE, IMAGE),
        1,
        """
        %0 = input x
        %1 = input y
        %2 = minimum.default(%0, %1)
        %3 = slice.Tensor(%0, 1, 0, 1)
        %4 = minimum.default(%3, @u)
        return (%2, %4)
        """,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_graph(case: Case) -> None:
    check_case(case, Canonicalize())


_NUMBERS = st.sampled_from([-3.0, -1.0, 0.0, 0.5, 2.0])
_SIDE = st.none() | st.lists(_NUMBERS, min_size=4, max_size=4) | _NUMBERS.map(lambda number: [number] * 4)


@settings(max_examples=25, deadline=None)
@given(_SIDE, _SIDE)
def test_the_function_is_kept(low: list[float] | None, high: list[float] | None) -> None:
    given: dict[str, Tensor] = {}
    for name, side in (("low", low), ("high", high)):
        if side is not None:
            given[name] = torch.tensor(side).reshape(4, 1, 1)
    if not given:
        return
    model = Calls(lambda m, x: torch.clamp(x, getattr(m, "low", None), getattr(m, "high", None)), **given)
    x = inputs(IMAGE)
    gm, _ = apply(model, x, Canonicalize())
    assert torch.equal(gm(*x), model(*x))
