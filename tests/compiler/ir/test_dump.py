"""The text form of a graph."""

from __future__ import annotations

import torch
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.ops import aten
from support import graph
from torch import fx, nn


def test_every_kind_of_node_and_argument() -> None:
    root = nn.Module()
    root.register_buffer("w", torch.ones(2))
    text = fx.Graph()
    x = text.placeholder("x")
    w = text.get_attr("w")
    parts = text.call_function(aten.split_with_sizes.default, (x, [1, 1]), {"dim": 1})
    first = text.call_function(__import__("operator").getitem, (parts, 0))
    total = text.call_function(aten.sum.dim_IntList, (first, [1], True), {"dtype": torch.float32})
    scaled = text.call_function(aten.mul.Tensor, (total, 1 / 3))
    summed = text.call_function(aten.add.Tensor, (scaled, w))
    text.output({"a": summed, "b": (first, [w])})
    assert dump(fx.GraphModule(root, text)) == graph("""
        %0 = input x
        %1 = split_with_sizes.default(%0, [1, 1], dim=1)
        %2 = getitem(%1, 0)
        %3 = sum.dim_IntList(%2, [1], True, dtype=float32)
        %4 = mul.Tensor(%3, 0.333333333)
        %5 = add.Tensor(%4, @w)
        return {a: %5, b: (%2, [@w])}""")
