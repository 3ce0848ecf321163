"""What the plan says of concats whose results are the graph's own."""

from textwrap import dedent

import pytest
import torch
from fxedge.compiler.quant.plan import plan_quantization
from support import Calls
from torch import nn
from toy_target import TOY, TOY_SHARED_CAT, captured

X = torch.randn(2, 4, 8, 8)


def conv(inputs: int = 4) -> nn.Conv2d:
    return nn.Conv2d(inputs, 4, 3, padding=1)


@pytest.mark.parametrize("spec", [TOY, TOY_SHARED_CAT], ids=["own", "shared"])
def test_a_concat_of_results_stays_float(spec):
    def function(m, x):
        boxes, classes = m.a(x), m.b(x)
        found = torch.cat([boxes, classes], 1).permute(0, 2, 3, 1)
        return torch.cat([found, m.c(classes).permute(0, 2, 3, 1)], 3)

    plan = plan_quantization(captured(Calls(function, a=conv(), b=conv(), c=conv()), X), spec)
    assert plan.format() + "\n" == dedent(f"""\
        plan for {spec.name}: 4 integer ops, 3 float
          int8   conv2d: x -> conv2d
          int8   conv2d_1: x -> conv2d_1
          int8   conv2d_2: conv2d_1 -> conv2d_2
          int8   permute_1: conv2d_2 -> permute_1
          shared conv2d_2, permute_1
          float  cat: it joins results of the graph: each part keeps parameters of its own
          float  permute: its inputs are float
          float  cat_1: it joins results of the graph: each part keeps parameters of its own
        """)


def test_a_concat_that_an_op_reads_too_is_integer():
    def function(m, x):
        both = torch.cat([m.a(x), m.b(x)], 1)
        return both, m.c(both)

    plan = plan_quantization(captured(Calls(function, a=conv(), b=conv(), c=conv(8)), X), TOY)
    assert "cat" in plan.ops
