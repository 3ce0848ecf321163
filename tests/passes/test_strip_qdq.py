"""A quantized graph becomes the float graph that it stands for."""

from __future__ import annotations

from textwrap import dedent

import pytest
import torch
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.errors import PassError
from fxedge.compiler.ir.passes import PassResult, run_passes
from fxedge.compiler.ir.stages import Stage, verify
from fxedge.passes.strip_qdq import StripQdq
from quantized_ops import OpCase, qint8, quint8
from torch import fx

aten = torch.ops.aten


def graph() -> fx.GraphModule:
    x = torch.arange(8, dtype=torch.int32).reshape(2, 4)
    weight = torch.arange(12, dtype=torch.int32).reshape(3, 4)
    qp, scales = quint8(0.1, 3), qint8(torch.tensor([0.5, 0.25, 1.0]))
    return OpCase(aten.linear.default, [x], [qp], quint8(0.2, 9), (), weight, scales, torch.ones(3)).graph()


def test_quantize_nodes_go_and_weights_become_numbers() -> None:
    gm = graph()
    assert run_passes(gm, [StripQdq()])["strip-qdq"] == PassResult(3)
    verify(gm, Stage.FLOAT)
    assert dump(gm) == dedent("""\
        %0 = input x0
        %1 = linear.default(%0, @weight_real, @bias)
        return %1""")
    x = torch.randn(5, 4)
    weight = torch.arange(12.0).reshape(3, 4) * torch.tensor([0.5, 0.25, 1.0])[:, None]
    torch.testing.assert_close(gm(x), torch.nn.functional.linear(x, weight, torch.ones(3)))


def test_integers_that_come_from_outside_are_refused() -> None:
    gm = graph()
    quantize = next(node for node in gm.graph.nodes if "quantize_per_tensor" in node.name)
    quantize.replace_all_uses_with(quantize.args[0])
    with pytest.raises(PassError) as caught:
        run_passes(gm, [StripQdq()])
    assert str(caught.value) == (
        "Pass strip-qdq failed (passes before it: none): dequantize_per_tensor_default dequantizes x0, an input "
        "of the graph; only constants, and what the graph quantizes itself, can be compiled"
    )
