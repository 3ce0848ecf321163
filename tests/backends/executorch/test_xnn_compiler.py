"""Which of XNNPACK's passes run, and that a program is the same with the others."""

from __future__ import annotations

import pytest
import torch
from fxedge.backends.executorch import backend, graph, libraries, lower, xnn_compiler
from fxedge.compiler.pipeline.lower import prepare
from fxedge.compiler.pipeline.options import CompileOptions
from torch import Tensor, nn

installed = pytest.mark.skipif(backend.missing() is not None, reason=str(backend.missing()))

STOCK = ["ConstPropPass", "FuseActivationPass", "DecomposeConcatenate", "ChannelsLastTaggedReshapePass"]


def test_a_pass_runs_where_the_graph_has_an_op_that_it_rewrites() -> None:
    assert xnn_compiler.pass_names([], STOCK) == ["ChannelsLastTaggedReshapePass"]
    assert xnn_compiler.pass_names(["aten.relu.default", "aten.mul.Tensor"], STOCK) == [
        "FuseActivationPass",
        "ChannelsLastTaggedReshapePass",
    ]


def test_a_pass_that_nobody_knows_runs() -> None:
    assert xnn_compiler.pass_names([], ["NewPass"]) == ["NewPass"]


@installed
def test_every_pass_in_the_table_is_one_of_the_installed_ones() -> None:
    manager = libraries.load("executorch.backends.xnnpack._passes").XNNPACKPassManager(None)
    assert xnn_compiler.REWRITES.keys() <= {each.__name__ for each in manager.passes}


class Mixed(nn.Module):
    """Something for nearly every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv1d(3, 4, 3, padding=1)
        self.image = nn.Conv2d(4, 4, 3)
        self.slope = nn.PReLU(4)
        self.last = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.line(x).relu().unflatten(2, (8, 8))
        y = nn.functional.pad(self.slope(self.image(y)), [1, 1, 1, 1]).max(dim=2, keepdim=True).values
        y = nn.functional.interpolate(y, (6, 6), mode="bilinear")
        return self.last(torch.cat([y * i for i in range(6)], 1).mean((2, 3))) @ torch.ones(5, 2)


@installed
def test_the_passes_left_out_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    prepared = prepare(Mixed().eval(), (torch.randn(2, 3, 64),), CompileOptions(recipe="fast"))
    needed = lower.pte_bytes(graph.float_graph(prepared.gm))
    ran: list[str] = []

    def every(ops: object, stock: list[str]) -> list[str]:
        ran.extend(stock)
        return stock

    monkeypatch.setattr(xnn_compiler, "pass_names", every)
    assert lower.pte_bytes(graph.float_graph(prepared.gm)) == needed
    assert len(ran) >= len(xnn_compiler.REWRITES)
