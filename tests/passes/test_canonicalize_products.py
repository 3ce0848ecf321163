"""Canonicalize: products, attention, einsum, composed activations, core ATen and constants."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.passes import PassResult, Skip, run_passes
from fxedge.passes import Canonicalize
from support import Calls, Calls2, Case, apply, graph, inputs
from torch import nn

IMAGE = (2, 4, 6, 6)


CASES = [
    Case(
        "products",
        Calls(lambda m, x: torch.bmm(x, x) @ m.w @ m.w.T, w=torch.rand(4, 4)),
        ((2, 4, 4),),
        4,
        """
                %0 = input x
                %1 = matmul.default(%0, %0)
                %2 = linear.default(%1, @w_transpose, None)
                %3 = linear.default(%2, @w, None)
                return %3
            """,
    ),
    Case(
        "addmm",
        Calls(
            lambda m, x: torch.addmm(m.b, torch.addmm(m.b, x, m.w), m.w.t(), beta=2, alpha=3),
            w=torch.rand(4, 4),
            b=torch.rand(4),
        ),
        ((2, 4),),
        5,
        """
                %0 = input x
                %1 = linear.default(%0, @w_transpose, @b)
                %2 = linear.default(%1, @w, None)
                %3 = mul.Tensor(%2, 3)
                %4 = add.Tensor(%3, @b_mul)
                return %4
            """,
    ),
    Case(
        "baddbmm",
        Calls(lambda m, x: torch.baddbmm(x, x, x)),
        ((2, 4, 4),),
        1,
        """
                %0 = input x
                %1 = matmul.default(%0, %0)
                %2 = add.Tensor(%1, %0)
                return %2
            """,
    ),
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
    gm, report = apply(case.model.eval(), inputs(*case.shapes), Canonicalize())
    assert dump(gm) == graph(case.expected)
    assert report["canonicalize"] == PassResult(changes=case.changes)


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")  # torch's own
def test_core_aten_becomes_what_export_gives() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1),
        nn.BatchNorm2d(4),
        nn.ReLU6(),
        nn.MaxPool2d(2),
        nn.ConvTranspose2d(4, 4, 2),
        nn.GroupNorm(2, 4),
        nn.Flatten(),
        nn.Linear(36, 3),
        nn.LayerNorm(3),
        nn.Softmax(-1),
    ).eval()
    example = inputs((2, 3, 8, 8))
    batch = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(model, example, dynamic_shapes=(batch,))
    core, _ = apply(program.run_decompositions(), example, Canonicalize())
    assert dump(core) == graph("""
        %0 = input input
        %1 = conv2d.default(%0, @0.weight, @0.bias, [2, 2], [1, 1], [1, 1], 1)
        %2 = batch_norm.default(%1, @1.weight, @1.bias, @1.running_mean, @1.running_var, False, 0.1, 1e-05, False)
        %3 = hardtanh.default(%2, 0, 6)
        %4 = max_pool2d.default(%3, [2, 2], [2, 2], [0, 0], [1, 1], False)
        %5 = conv_transpose2d.input(%4, @4.weight, @4.bias, [1, 1], [0, 0], [0, 0], 1, [1, 1])
        %6 = group_norm.default(%5, 2, @5.weight, @5.bias, 1e-05, False)
        %7 = reshape.default(%6, [-1, 36])
        %8 = linear.default(%7, @7.weight, @7.bias)
        %9 = layer_norm.default(%8, [3], @8.weight, @8.bias, 1e-05, False)
        %10 = softmax.int(%9, 1)
        return %10""")


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
