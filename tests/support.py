"""What tests of several areas share: modules made of a function, batch norms worth folding, passes on a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import dedent
from typing import NamedTuple

import torch
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.passes import Pass, PassContext, PassReport, PassResult, run_passes
from torch import Tensor, fx, nn


class Calls(nn.Module):
    """`forward(x)` is `function(self, x)`; `modules` and tensors become its submodules and parameters."""

    def __init__(self, function: Callable[..., object], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) else part)

    def forward(self, x: Tensor) -> object:
        return self.function(self, x)


class Calls2(Calls):
    """The same with two inputs, x and y."""

    def forward(self, x: Tensor, y: Tensor) -> object:  # type: ignore[override]
        return self.function(self, x, y)


def inputs(*shapes: Sequence[int]) -> tuple[Tensor, ...]:
    """Seeded standard normal tensors."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(tuple(shape), generator=generator) for shape in shapes)


@torch.no_grad()
def with_random_norms(model: nn.Module) -> nn.Module:
    """`model` in eval mode, batch norm statistics and gains filled so that a wrong fold shows."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            if module.running_mean is not None and module.running_var is not None:
                module.running_mean.normal_(generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                module.weight.normal_(generator=generator)
                module.bias.normal_(generator=generator)
    return model.eval()


def apply(
    model: nn.Module, example: tuple[Tensor, ...], *passes: Pass, ctx: PassContext | None = None
) -> tuple[fx.GraphModule, PassReport]:
    """The captured model after `passes`, their numerics checked on `example`; a second run must change nothing."""
    gm = capture(model, example)
    ctx = ctx or PassContext()
    ctx.example_inputs = example
    report = run_passes(gm, passes, ctx)
    for name, result in report.items():
        assert result.rolled_back is None, f"{name}: {result.rolled_back}"
    text = dump(gm)
    again = run_passes(gm, passes)
    assert {name: result.changes for name, result in again.items()} == dict.fromkeys(report, 0)
    assert dump(gm) == text
    return gm, report


class Case(NamedTuple):
    """A model on inputs of `shapes`, the number of changes a pass makes to it and the graph that comes out."""

    name: str
    model: nn.Module
    shapes: tuple[tuple[int, ...], ...]
    changes: int
    expected: str


def check_case(case: Case, *passes: Pass) -> None:
    """The graph and the number of changes are as the case says; nothing is skipped."""
    gm, report = apply(case.model.eval(), inputs(*case.shapes), *passes)
    assert dump(gm) == graph(case.expected)
    assert list(report.values()) == [PassResult(changes=case.changes)]


def graph(text: str) -> str:
    """An indented graph dump of a test, as `dump` writes it."""
    return dedent(text).strip()
