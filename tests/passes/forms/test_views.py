"""What moves, copies or converts elements."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fxedge.passes import Canonicalize
from support import Calls, Case, check_case
from torch import nn

IMAGE = (2, 4, 6, 6)

CASES = [
    Case(
        "dropout",
        Calls(
            lambda m, x: F.feature_alpha_dropout(F.dropout2d(m.drop(x), training=False), training=False) + 1,
            drop=nn.Dropout(),
        ),
        (IMAGE,),
        3,
        """
                %0 = input x
                %1 = add.Tensor(%0, 1)
                return %1
            """,
    ),
    Case(
        "copies",
        Calls(lambda m, x: x.clone().contiguous().detach() + 1),
        (IMAGE,),
        2,
        """
                %0 = input x
                %1 = add.Tensor(%0, 1)
                return %1
            """,
    ),
    Case(
        "casts",
        Calls(lambda m, x: x.to(torch.float32).float().type_as(x) * x.to(torch.float64).to(dtype=torch.float32)),
        (IMAGE,),
        3,
        """
                %0 = input x
                %1 = to.dtype(%0, float64)
                %2 = to.dtype(%1, float32)
                %3 = mul.Tensor(%0, %2)
                return %3
            """,
    ),
    Case(
        "slices",
        Calls(lambda m, x: x[:, :][:, 0:4, 1:, -3:]),
        (IMAGE,),
        2,
        """
                %0 = input x
                %1 = slice.Tensor(%0, 2, 1, 9223372036854775807)
                %2 = slice.Tensor(%1, 3, -3, 9223372036854775807)
                return %2
            """,
    ),
    Case(
        "narrow",
        Calls(lambda m, x: x.narrow(-1, 1, 3)),
        (IMAGE,),
        2,
        """
                %0 = input x
                %1 = slice.Tensor(%0, 3, 1, 4)
                return %1
            """,
    ),
    Case(
        "reshapes",
        Calls(
            lambda m, x: (
                x.view(x.size(0), -1).reshape(x.shape[0], 4, 36).view(x.shape[0], 4, 36).flatten(1).flatten(1)
            )
        ),
        (IMAGE,),
        4,
        """
                %0 = input x
                %1 = reshape.default(%0, [-1, 144])
                %2 = reshape.default(%1, [-1, 4, 36])
                %3 = flatten.using_ints(%2, 1)
                return %3
            """,
    ),
    Case(
        "flatten to the end",
        Calls(lambda m, x: x.flatten(2, -1).flatten(1, 2)),
        (IMAGE,),
        1,
        """
                %0 = input x
                %1 = flatten.using_ints(%0, 2)
                %2 = flatten.using_ints(%1, 1)
                return %2
            """,
    ),
    Case(
        "expand",
        Calls(lambda m, x: x.expand(x.shape[0], 4, 6, 6) + x[:, :1].expand(x.shape[0], 4, 6, 6)),
        (IMAGE,),
        3,
        """
                %0 = input x
                %1 = slice.Tensor(%0, 1, 0, 1)
                %2 = expand.default(%1, [-1, 4, -1, -1])
                %3 = add.Tensor(%0, %2)
                return %3
            """,
    ),
    Case(
        "permutes",
        Calls(lambda m, x: x.permute(0, 1, 2, 3).transpose(-1, -2).transpose(1, 1).mT.permute(0, 2, 3, -3)),
        (IMAGE,),
        6,
        """
                %0 = input x
                %1 = transpose.int(%0, 2, 3)
                %2 = transpose.int(%1, 2, 3)
                %3 = permute.default(%2, [0, 2, 3, 1])
                return %3
            """,
    ),
    Case(
        "split and chunk",
        Calls(lambda m, x: (torch.chunk(x, 2, 1)[1], torch.split(x, 3, -1)[0], torch.cat([x], 1))),
        (IMAGE,),
        4,
        """
                %0 = input x
                %1 = split_with_sizes.default(%0, [2, 2], 1)
                %2 = getitem(%1, 1)
                %3 = split_with_sizes.default(%0, [3, 3], 3)
                %4 = getitem(%3, 0)
                return (%2, %4, %0)
            """,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_normal_form(case: Case) -> None:
    check_case(case, Canonicalize())
