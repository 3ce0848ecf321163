"""Learned rounding against every rounding that there is."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from fxedge.passes.rounding.adaround import Problem, learn_rounding
from torch import Tensor

LOW, HIGH = -7, 7


def problem(weights: Tensor, rows: int = 256, bound: float = torch.inf) -> Problem:
    """Correlated inputs, for which rounding each weight to the nearest is not the best for their sum."""
    generator = torch.Generator().manual_seed(0)
    fan_in = weights.shape[1]
    common = torch.randn(1, rows, 1, generator=generator)
    x = common + 0.3 * torch.randn(1, rows, fan_in, generator=generator)
    ends = torch.full((1, 1, weights.shape[2]), bound)
    return Problem(x, x @ weights, -ends, ends)


def learned(task: Problem, weights: Tensor, seed: int = 0) -> Tensor:
    return learn_rounding(task, weights, LOW, HIGH, 1000, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(4))
def test_it_finds_nearly_the_best_of_all(seed: int) -> None:
    weights = torch.rand(1, 6, 1, generator=torch.Generator().manual_seed(seed)) * 8 - 4
    task = problem(weights)
    ways = torch.tensor(list(product((0.0, 1.0), repeat=6))).T[None]
    errors = task.wanted.new_tensor([float(task.errors(weights.floor() + way[..., None])) for way in ways.mT[0]])
    found, nearest = float(task.errors(learned(task, weights))), float(task.errors(weights.round()))
    assert found <= 1.5 * float(errors.min())
    assert found <= nearest


def test_integers_lie_next_to_the_weights_and_within_the_bounds() -> None:
    weights = torch.linspace(-9, 9, 24).view(1, 8, 3)
    found = learned(problem(weights), weights)
    assert torch.equal(found, found.round())
    assert found.dtype == torch.float32
    assert (int(found.min()), int(found.max())) == (LOW, HIGH)
    inside = (weights > LOW) & (weights < HIGH)
    assert ((found - weights).abs() <= 1)[inside].all()


def test_what_a_bound_hides_does_not_count() -> None:
    weights = torch.full((1, 4, 1), 0.4)
    open_, bounded = problem(weights), problem(weights, bound=0.0)
    assert float(open_.errors(weights.round())) > 0
    assert float(bounded.errors(weights.round())) == 0


def test_one_seed_gives_one_result() -> None:
    weights = torch.rand(1, 32, 8, generator=torch.Generator().manual_seed(1)) * 8 - 4
    task = problem(weights)
    assert torch.equal(learned(task, weights), learned(task, weights))
