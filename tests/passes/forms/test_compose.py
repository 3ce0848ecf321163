"""Activations that a model spells out become one op."""

import pytest
import torch
import torch.nn.functional as F
from fxedge.passes import Canonicalize
from support import Calls, Case, check_case

IMAGE = (2, 4, 6, 6)

CASES = [
    Case(
        "silu",
        Calls(lambda m, x: x * torch.sigmoid(x)),
        (IMAGE,),
        1,
        """
                %0 = input x
                %1 = silu.default(%0)
                return %1
            """,
    ),
    Case(
        "hard sigmoid",
        Calls(lambda m, x: F.relu6(x + 3) / 6),
        (IMAGE,),
        2,
        """
                %0 = input x
                %1 = hardsigmoid.default(%0)
                return %1
            """,
    ),
    Case(
        "hard swish",
        Calls(
            lambda m, x: (x * F.relu6(x + 3) / 6, F.hardsigmoid(x) * x, x * (torch.clamp(x + 3, 0, 6) * (1 / 6)))
        ),
        (IMAGE,),
        6,
        """
                %0 = input x
                %1 = hardswish.default(%0)
                %2 = hardswish.default(%0)
                %3 = hardswish.default(%0)
                return (%1, %2, %3)
            """,
    ),
    Case(
        "gate with another reader",
        Calls(lambda m, x: (lambda gate: x * gate + gate)(torch.sigmoid(x))),
        (IMAGE,),
        0,
        """
                %0 = input x
                %1 = sigmoid.default(%0)
                %2 = mul.Tensor(%0, %1)
                %3 = add.Tensor(%2, %1)
                return %3
            """,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_normal_form(case: Case) -> None:
    check_case(case, Canonicalize())
