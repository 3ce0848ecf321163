"""Weights and inputs from a seed: the same every time, and torch's random state stays as it was."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from .registry import ModelEntry, register

WEIGHT_SEED = 0
INPUT_SEED = 1

M = TypeVar("M", bound=nn.Module)


def seeded(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A factory that runs `build` from a fixed seed and gives its batch norms statistics of a trained net."""

    def factory() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(WEIGHT_SEED)
            model = build().eval()
            randomize_norms(model)
        return model

    return factory


@torch.no_grad()
def randomize_norms(model: nn.Module) -> None:
    """Fill batch norms (in place, from torch's random state) so that folding one wrongly shows.

    Gains lie in [-0.5, 1.5] (some flip the sign, some nearly kill a channel), variances in [0.3, 2].
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.weight.uniform_(-0.5, 1.5)
            module.bias.normal_(0, 0.3)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.3, 2)


def floats(*shapes: tuple[int, ...]) -> Callable[[], tuple[Tensor, ...]]:
    """Example inputs of these shapes, standard normal."""

    def inputs() -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(INPUT_SEED)
        return tuple(torch.randn(shape, generator=generator) for shape in shapes)

    return inputs


def tokens(vocabulary: int, shape: tuple[int, int]) -> Callable[[], tuple[Tensor, ...]]:
    """Example inputs of one int64 tensor (batch, length) of token ids below `vocabulary`."""

    def inputs() -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(INPUT_SEED)
        return (torch.randint(vocabulary, shape, generator=generator),)

    return inputs


def reference(
    name: str, inputs: Callable[[], tuple[Tensor, ...]], classes: int | None = None
) -> Callable[[type[M]], type[M]]:
    """Class decorator: register a module built without arguments; its docstring's first line describes it."""

    def add(cls: type[M]) -> type[M]:
        description = (inspect.getdoc(cls) or "").partition("\n")[0]
        register(ModelEntry(name, seeded(cls), inputs, description, classes))
        return cls

    return add
