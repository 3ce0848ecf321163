"""Calls on constants are computed at compile time."""

import pytest
import torch
from fxedge.passes import Canonicalize
from support import Calls, Case, check_case

IMAGE = (2, 4, 6, 6)

CASES = [
    Case(
        "constants",
        Calls(lambda m, x: x * torch.arange(6) + torch.ones(6) * m.w.exp(), w=torch.rand(6)),
        (IMAGE,),
        4,
        """
                %0 = input x
                %1 = mul.Tensor(%0, @constant_arange)
                %2 = add.Tensor(%1, @constant_mul_1)
                return %2
            """,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_normal_form(case: Case) -> None:
    check_case(case, Canonicalize())
