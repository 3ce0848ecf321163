"""Constants by dotted name: read, set without writing in place, add under a free name, prune."""

from __future__ import annotations

import torch
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.constants import (
    add_constant,
    constant,
    constant_nodes,
    constants,
    first_not_finite,
    get_constant,
    prune_constants,
    set_constant,
)
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.nodes import output_node
from support import inputs
from torch import fx, nn


def _linear() -> fx.GraphModule:
    return capture(nn.Sequential(nn.Linear(3, 2)), inputs((2, 3)))


def test_reading() -> None:
    gm = _linear()
    assert list(constants(gm)) == ["0.weight", "0.bias"]
    weight = constant_nodes(gm)[0]
    assert constant(gm, weight) is get_constant(gm, "0.weight")
    assert constant(gm, output_node(gm)) is None
    assert constant(gm, None) is None
    assert get_constant(gm, "0.nothing") is None
    assert get_constant(gm, "0") is None


def test_setting_leaves_the_old_tensor_as_it_was() -> None:
    gm = _linear()
    old = get_constant(gm, "0.weight")
    assert old is not None
    copy = old.clone()
    set_constant(gm, "0.weight", torch.zeros(2, 3))
    assert torch.equal(old, copy)
    assert torch.equal(gm(torch.ones(1, 3)), get_constant(gm, "0.bias")[None])
    assert not get_constant(gm, "0.weight").requires_grad


def test_setting_makes_the_path() -> None:
    gm = _linear()
    set_constant(gm, "a.b.c", torch.ones(1))
    assert torch.equal(gm.get_buffer("a.b.c"), torch.ones(1))


def test_adding_takes_a_free_name() -> None:
    gm = _linear()
    node = next(node for node in gm.graph.nodes if node.op == "call_function")
    names = [add_constant(gm, "0.bias", torch.full((2,), value), node).target for value in (1.0, 2.0)]
    assert names == ["0.bias_1", "0.bias_2"]


def test_pruning_drops_what_no_node_reads() -> None:
    gm = _linear()
    set_constant(gm, "left.over", torch.ones(1))
    prune_constants(gm)
    assert get_constant(gm, "left.over") is None
    assert [name for name, _ in gm.named_buffers()] == ["0.weight", "0.bias"]
    assert "@0.weight" in dump(gm)


def test_first_not_finite() -> None:
    value = torch.ones(2, 3)
    assert first_not_finite(value) is None
    value[1, 2] = float("inf")
    assert first_not_finite(value) == (1, 2)
    assert first_not_finite(torch.tensor([1, 2])) is None
