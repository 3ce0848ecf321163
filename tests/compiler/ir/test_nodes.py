"""Questions on nodes: users, module path, outputs by name."""

from __future__ import annotations

from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.nodes import describe, flat_outputs, inherit, module_path, placeholders, sole_user
from support import Calls, Calls2, inputs
from torch import nn


def test_sole_user() -> None:
    gm = capture(Calls(lambda m, x: (x + 1) * (x + 1).relu()), inputs((2, 3)))
    x, add, add_1, relu, mul, output = gm.graph.nodes
    assert sole_user(x) is None
    assert sole_user(add) is mul
    assert (sole_user(add_1), sole_user(relu), sole_user(mul)) == (relu, mul, output)
    assert sole_user(output) is None


def test_path_and_description() -> None:
    gm = capture(nn.Sequential(nn.Sequential(nn.ReLU())), inputs((2, 3)))
    x, relu, _ = gm.graph.nodes
    assert (module_path(relu), describe(relu)) == ("0.0", "0.0 (relu)")
    assert describe(x) == "input_1"
    assert describe(inherit(x, relu)) == "0.0 (input_1)"


def test_inputs_and_outputs_in_order() -> None:
    gm = capture(Calls2(lambda m, x, y: {"b": [x + y, y * 2], "a": (x - y,)}), inputs((2, 3), (2, 3)))
    assert [node.target for node in placeholders(gm)] == ["x", "y"]
    assert {name: node.name for name, node in flat_outputs(gm).items()} == {"b_0": "add", "b_1": "mul", "a": "sub"}
    single = capture(Calls(lambda m, x: x + 1), inputs((2, 3)))
    assert list(flat_outputs(single)) == ["output"]
