"""Attention and einsum become matrix products."""

import pytest
import torch
import torch.nn.functional as F
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.passes import PassResult, Skip, run_passes
from fxedge.passes import Canonicalize
from support import Calls, Calls2, Case, check_case, inputs

IMAGE = (2, 4, 6, 6)

CASES = [
    Case(
        "attention",
        Calls(lambda m, x: F.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.25)),
        (IMAGE,),
        1,
        """
                %0 = input x
                %1 = transpose.int(%0, 2, 3)
                %2 = matmul.default(%0, %1)
                %3 = mul.Tensor(%2, 0.25)
                %4 = where.ScalarOther(@scaled_dot_product_attention_causal_mask, %3, -1e+09)
                %5 = softmax.int(%4, 3)
                %6 = matmul.default(%5, %0)
                return %6
            """,
    ),
    Case(
        "attention with a boolean mask",
        Calls2(lambda m, x, y: F.scaled_dot_product_attention(x, x, x, attn_mask=y > 0)),
        (IMAGE, (2, 4, 6, 6)),
        1,
        """
                %0 = input x
                %1 = input y
                %2 = gt.Scalar(%1, 0)
                %3 = transpose.int(%0, 2, 3)
                %4 = matmul.default(%0, %3)
                %5 = mul.Tensor(%4, 0.40824829)
                %6 = where.ScalarOther(%2, %5, -1e+09)
                %7 = softmax.int(%6, 3)
                %8 = matmul.default(%7, %0)
                return %8
            """,
    ),
    Case(
        "attention with a float mask",
        Calls2(lambda m, x, y: F.scaled_dot_product_attention(x, x, x, attn_mask=y)),
        (IMAGE, (2, 4, 6, 6)),
        1,
        """
                %0 = input x
                %1 = input y
                %2 = transpose.int(%0, 2, 3)
                %3 = matmul.default(%0, %2)
                %4 = mul.Tensor(%3, 0.40824829)
                %5 = add.Tensor(%4, %1)
                %6 = softmax.int(%5, 3)
                %7 = matmul.default(%6, %0)
                return %7
            """,
    ),
    Case(
        "einsum with a constant",
        Calls(lambda m, x: torch.einsum("bchw,wk->bkch", x, m.w), w=torch.rand(6, 4)),
        (IMAGE,),
        2,
        """
                %0 = input x
                %1 = linear.default(%0, @w_transpose, None)
                %2 = permute.default(%1, [0, 3, 1, 2])
                return %2
            """,
    ),
    Case(
        "einsum of a batch",
        Calls2(lambda m, x, y: torch.einsum("bcij,bckj->bcki", x, y)),
        (IMAGE, IMAGE),
        1,
        """
                %0 = input x
                %1 = input y
                %2 = permute.default(%1, [0, 1, 3, 2])
                %3 = matmul.default(%0, %2)
                %4 = permute.default(%3, [0, 1, 3, 2])
                return %4
            """,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_normal_form(case: Case) -> None:
    check_case(case, Canonicalize())


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (
            lambda m, x, y: torch.einsum("ij,ij->ij", x, y),
            "einsum keeps einsum 'ij,ij->ij': it is not one matrix product per batch",
        ),
        (
            lambda m, x, y: torch.einsum("ij,ik->k", x, y),
            "einsum keeps einsum 'ij,ik->k': a letter is summed over one operand only",
        ),
        (
            lambda m, x, y: torch.einsum("ii->i", x) + y[0],
            "einsum keeps einsum 'ii->i': only two operands with an explicit output are decomposed",
        ),
        (
            lambda m, x, y: torch.einsum("ii,ij->ij", x, y),
            "einsum keeps einsum 'ii,ij->ij': a letter is repeated in one term",
        ),
    ],
)
def test_einsum_that_is_no_product_is_skipped(function: object, reason: str) -> None:
    gm = capture(Calls2(function), inputs((4, 4), (4, 4)), dynamic_axes=())
    report = run_passes(gm, [Canonicalize()])
    assert report["canonicalize"].skipped == (Skip("einsum", reason),)


def test_causal_attention_over_a_dynamic_length_is_skipped() -> None:
    model = Calls(lambda m, x: F.scaled_dot_product_attention(x, x, x, is_causal=True))
    gm = capture(model, inputs((2, 5, 8)), dynamic_axes=(0, 1))
    name = "scaled_dot_product_attention"
    assert run_passes(gm, [Canonicalize()])["canonicalize"] == PassResult(
        0, (Skip(name, f"{name} keeps its one op: its mask is causal over a dynamic length"),)
    )
