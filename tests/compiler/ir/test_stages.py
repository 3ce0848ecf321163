"""The verifier of each stage: what it refuses, with its full message."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
from fxedge.compiler.ir.errors import VerifierError
from fxedge.compiler.ir.ops import aten
from fxedge.compiler.ir.qops import DQ, Q
from fxedge.compiler.ir.stages import Stage, verify
from torch import fx, nn

INT8 = (0.1, 0, -128, 127, torch.int8)


def _module(build: Callable[[fx.Graph, fx.Node], fx.Node]) -> fx.GraphModule:
    root = nn.Module()
    root.register_buffer("w", torch.ones(2))
    root.relu = nn.ReLU()
    graph = fx.Graph()
    graph.output(build(graph, graph.placeholder("x")))
    return fx.GraphModule(root, graph)


def _message(build: Callable[[fx.Graph, fx.Node], fx.Node], stage: Stage) -> str:
    with pytest.raises(VerifierError) as caught:
        verify(_module(build), stage)
    return str(caught.value)


def _twice(graph: fx.Graph, x: fx.Node) -> fx.Node:
    return graph.call_function(aten.add.Tensor, (graph.get_attr("w"), graph.get_attr("w")))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda g, x: g.call_module("relu", (x,)),
            "relu is a call_module node; only aten calls and constants are allowed. Capture the module with "
            "fxedge.capture.",
        ),
        (lambda g, x: g.call_function(torch.relu, (x,)), "relu calls relu, which is not an aten overload"),
        (
            lambda g, x: g.call_function(aten.relu_.default, (x,)),
            "relu__default calls relu_.default, which writes to its input",
        ),
        (
            lambda g, x: g.call_function(aten.dropout.default, (x, 0.5, True)),
            "dropout_default was captured in training mode; call model.eval() first, and give functional calls "
            "training=self.training",
        ),
        (
            lambda g, x: g.call_function(Q, (x, *INT8)),
            "quantize_per_tensor_default quantizes in a graph that should be float only",
        ),
        (_twice, "The constant 'w' has two get_attr nodes; one is allowed"),
    ],
)
def test_float_stage_refuses(build: Callable[[fx.Graph, fx.Node], fx.Node], message: str) -> None:
    assert _message(build, Stage.FLOAT) == message


def test_missing_constant() -> None:
    gm = _module(lambda g, x: g.call_function(aten.add.Tensor, (x, g.get_attr("w"))))
    del gm.w
    with pytest.raises(VerifierError) as caught:
        verify(gm, Stage.FLOAT)
    text = "The graph is not well-formed: Node w target w references nonexistent attribute w of"
    assert str(caught.value).strip() == text


def test_size_arithmetic_is_allowed() -> None:
    def build(graph: fx.Graph, x: fx.Node) -> fx.Node:
        size = graph.call_function(aten.sym_size.int, (x, 0))
        double = graph.call_function(operator.mul, (size, 2))
        return graph.call_function(aten.reshape.default, (x, [double, -1]))

    verify(_module(build), Stage.FLOAT)
    verify(_module(build), Stage.QUANTIZED)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda g, x: g.call_function(aten.relu.default, (g.call_function(Q, (x, *INT8)),)),
            "The integers of quantize_per_tensor_default are read by relu_default (relu.default); only dequantize "
            "nodes and the output may read them",
        ),
        (
            lambda g, x: g.call_function(DQ, (g.call_function(aten.relu.default, (x,)), *INT8)),
            "dequantize_per_tensor_default dequantizes relu_default, which is not a quantized value",
        ),
    ],
)
def test_quantized_stage_refuses(build: Callable[[fx.Graph, fx.Node], fx.Node], message: str) -> None:
    assert _message(build, Stage.QUANTIZED) == message


@pytest.mark.parametrize(
    "build",
    [
        lambda g, x: g.call_function(DQ, (g.call_function(Q, (x, *INT8)), *INT8)),
        lambda g, x: g.call_function(Q, (x, *INT8)),
        lambda g, x: g.call_function(DQ, (x, *INT8)),
        lambda g, x: g.call_function(DQ, (g.get_attr("w"), *INT8)),
    ],
)
def test_quantized_stage_allows(build: Callable[[fx.Graph, fx.Node], fx.Node]) -> None:
    verify(_module(build), Stage.QUANTIZED)


def test_malformed_graph() -> None:
    gm = _module(lambda g, x: g.call_function(aten.relu.default, (x,)))
    relu = next(node for node in gm.graph.nodes if node.op == "call_function")
    relu.prepend(next(node for node in gm.graph.nodes if node.op == "output"))
    with pytest.raises(VerifierError) as caught:
        verify(gm, Stage.FLOAT)
    assert str(caught.value).startswith("The graph is not well-formed: ")
