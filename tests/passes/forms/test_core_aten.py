"""Core ATen becomes the ops that targets and passes know."""

import pytest
import torch
from fxedge.compiler.ir.dump import dump
from fxedge.passes import Canonicalize
from support import Calls, Case, apply, check_case, graph, inputs
from torch import nn

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
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_normal_form(case: Case) -> None:
    check_case(case, Canonicalize())


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
