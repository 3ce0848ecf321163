import re

import pytest
import torch
from fxedge.compiler.ir.constants import constants
from fxedge.compiler.ir.errors import VerifierError
from fxedge.compiler.ir.ops import aten
from fxedge.compiler.ir.passes import evaluate
from fxedge.compiler.ir.qops import DQC
from fxedge.compiler.quant.qnodes import (
    insert_constant_dequantize,
    insert_dequantize,
    insert_quantize,
    read_qparams,
)
from fxedge.compiler.quant.qparams import QParams, dequantize, quantize
from support import graph
from torch import fx
from toy_target import HandWritten, brief

UINT8 = QParams((0.5,), (10,), 0, 255, torch.uint8)
PER_CHANNEL = QParams((0.5, 0.25), (0, 0), -127, 127, torch.int8, 0)
ARGS = (0.5, 10, 0, 255, torch.uint8)


def relu_graph() -> tuple[fx.GraphModule, fx.Node, fx.Node]:
    b = HandWritten()
    value = b(aten.relu.default, b.x)
    return b.done(value), b.x, value


def test_insert_and_read_back():
    gm, x, relu = relu_graph()
    q = insert_quantize(gm, x, UINT8)
    dq = insert_dequantize(gm, q, UINT8, relu)
    relu.replace_input_with(x, dq)
    gm.recompile()
    assert brief(gm) == graph("""
        %0 = input x
        %1 = quantize(%0, 0.5, 10, 0, 255, uint8)
        %2 = dequantize(%1, 0.5, 10, 0, 255, uint8)
        %3 = relu.default(%2)
        return (%3)""")
    assert read_qparams(gm, q) == read_qparams(gm, dq) == UINT8
    value = torch.tensor([-9.0, 0.3, 0.9, 1000.0])
    assert torch.equal(evaluate(gm, [value])[0], dequantize(quantize(value, UINT8), UINT8).relu())


@pytest.mark.parametrize("qp", [PER_CHANNEL, QParams((0.5,), (0,), -127, 127, torch.int8)])
def test_constants_are_stored_in_their_own_dtype(qp):
    gm, x, relu = relu_graph()
    integers = torch.tensor([[127, -127], [3, 0]], dtype=torch.int32)
    node = insert_constant_dequantize(gm, "block.weight", integers, qp, relu)
    relu.replace_input_with(x, node)
    gm.recompile()
    assert constants(gm)["block.weight"].dtype == torch.int8
    assert read_qparams(gm, node) == qp
    assert torch.equal(evaluate(gm, [torch.zeros(1)])[0], dequantize(integers, qp).relu())
    extra = {"block.weight_scale", "block.weight_zero_point"} if qp.per_channel else set()
    assert set(constants(gm)) == {"block.weight"} | extra


def test_names_that_are_taken_get_a_number():
    gm, _, relu = relu_graph()
    first, second = (
        insert_constant_dequantize(gm, "w", torch.tensor([value, 0]), PER_CHANNEL, relu) for value in (1, 2)
    )
    assert [str(node.args[0].target) for node in (first, second)] == ["w", "w_1"]
    assert read_qparams(gm, first) == read_qparams(gm, second) == PER_CHANNEL


def test_new_nodes_belong_to_the_module_of_what_they_serve():
    gm, x, relu = relu_graph()
    relu.meta["nn_module_stack"] = {"a": ("features.act", "ReLU")}
    dq = insert_dequantize(gm, insert_quantize(gm, x, UINT8), UINT8, relu)
    assert dq.meta["nn_module_stack"] == relu.meta["nn_module_stack"]
    assert "nn_module_stack" not in dq.args[0].meta


def test_absent_zero_points_are_zeros_and_arguments_may_be_named():
    b = HandWritten()
    weight, scales = (
        b.constant("w", torch.zeros(2, 2, dtype=torch.int8)),
        b.constant("s", torch.tensor([0.5, 0.25])),
    )
    rest = {"axis": 0, "quant_min": -127, "quant_max": 127, "dtype": torch.int8}
    node = b.graph.call_function(DQC, (weight, scales, None), rest)
    assert read_qparams(b.done(node), node) == PER_CHANNEL


def test_computed_zero_points_are_refused():
    b = HandWritten()
    weight, scales = b.constant("w", torch.zeros(2, 2, dtype=torch.int8)), b.constant("s", torch.ones(2))
    zeros = b(aten.neg.default, b.constant("z", torch.zeros(2, dtype=torch.int64)))
    node = b(DQC, weight, scales, zeros, 0, -127, 127, torch.int8)
    message = "dequantize_per_channel_default cannot be read: neg_default is computed, not constant"
    with pytest.raises(VerifierError, match=f"^{re.escape(message)}$"):
        read_qparams(b.done(node), node)
