"""In-place operations: the graph computes what eager PyTorch does, and state is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.errors import CaptureError
from fxedge.compiler.ir.functionalize import has_alias_risk
from support import Calls, graph, inputs
from torch import Tensor, nn


def _write_through_slice(m: nn.Module, x: Tensor) -> Tensor:
    y = x + 1
    y[:, 0].mul_(2)
    return y


def _write_through_view(m: nn.Module, x: Tensor) -> Tensor:
    y = x + 1
    y.view(-1).relu_()
    return y


def _read_before_and_after(m: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    y = x + 1
    before = y * 3
    y += before
    F.relu(y, inplace=True)
    return before, y


def _write_after_view(m: nn.Module, x: Tensor) -> Tensor:
    y = x + 1
    view = y.flatten(1)
    y.mul_(5)
    return view


def _write_to_input(m: nn.Module, x: Tensor) -> Tensor:
    x.relu_()
    return x * 2


WRITES = [_write_through_slice, _write_through_view, _read_before_and_after, _write_after_view, _write_to_input]


@pytest.mark.parametrize("function", WRITES, ids=lambda function: function.__name__.strip("_"))
def test_graph_computes_what_eager_does(function: Callable[[nn.Module, Tensor], object]) -> None:
    (x,) = inputs((2, 3, 4))
    gm = capture(Calls(function), (x.clone(),))
    assert "_." not in dump(gm).replace("quantized_decomposed.", "")
    torch.testing.assert_close(gm(x.clone()), function(gm, x.clone()), rtol=0, atol=0)


def test_plain_writes_need_no_retrace() -> None:
    program = torch.export.export(Calls(_read_before_and_after), inputs((2, 3)))
    assert not has_alias_risk(program.module(check_guards=False).graph)
    gm = capture(program, ())
    assert dump(gm) == graph("""
        %0 = input x
        %1 = add.Tensor(%0, 1)
        %2 = mul.Tensor(%1, 3)
        %3 = add.Tensor(%1, %2)
        %4 = relu.default(%3)
        return (%2, %4)""")


@pytest.mark.parametrize("function", [_write_through_view, _write_after_view])
def test_writes_beside_views_are_a_risk(function: Callable[[nn.Module, Tensor], object]) -> None:
    program = torch.export.export(Calls(function), inputs((2, 3, 4)))
    assert has_alias_risk(program.module(check_guards=False).graph)


class Counter(nn.Module):
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return x * self.count


def test_state_is_refused() -> None:
    with pytest.raises(CaptureError) as caught:
        capture(nn.Sequential(Counter()), inputs((2, 3)))
    assert str(caught.value) == (
        "The model writes to its own tensor '0.count' at each call (0 (add_): add_.Tensor), and a compiled graph "
        "keeps no state. Take that state as an input and give it back as an output, or leave it out in eval mode."
    )
