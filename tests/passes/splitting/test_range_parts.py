"""Cuts against every cut that there is."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
import torch
from fxedge.passes.splitting.range_parts import Spread, best_cuts, noise_of_one
from torch import Tensor


def spread(reach: list[float], power: list[float] | None = None) -> Spread:
    high = torch.tensor(reach, dtype=torch.float64)
    return Spread(high, torch.zeros_like(high), torch.tensor(power or [1.0] * len(reach)).double(), 15)


def noise_of(spreads: list[Spread], parts: list[Tensor]) -> float:
    """Of each part, its own step's noise in all its channels; the mean over the channels that hold something."""
    total = 0.0
    for one in spreads:
        for part in parts:
            step = float((one.high[part].max() + one.low[part].max()) / one.steps)
            total += float((step**2 / 12 / one.power[part]).clamp(max=1).sum()) / len(one.power)
    return total


def least(spreads: list[Spread], count: int) -> float:
    """The least noise of all cuts of the channels, sorted by reach, into `count` runs."""
    order = spreads[0].reach().argsort(descending=True)
    found = []
    for inner in combinations(range(1, len(order)), count - 1):
        edges = (0, *inner, len(order))
        found.append(noise_of(spreads, [order[a:b] for a, b in pairwise(edges)]))
    return min(found)


@pytest.mark.parametrize(
    "spreads",
    [
        [spread([8, 4, 2, 1, 0.5, 0.25])],
        [spread([0.3, 90, 5, 70, 0.1, 4], [0.01, 30, 2, 9, 0.001, 3])],
        [spread([1, 20, 3, 60, 0.1, 7]), spread([2, 40, 6, 120, 0.2, 14], [0.1, 9, 1, 50, 0.01, 3])],
    ],
    ids=["octaves", "two kinds", "weight and activation"],
)
def test_the_best_runs_are_found(spreads: list[Spread]) -> None:
    cuts = best_cuts(spreads, 4, 1)
    assert [len(cut.parts) for cut in cuts] == [1, 2, 3, 4]
    assert cuts[0].noise == pytest.approx(noise_of_one(spreads))
    for cut in cuts:
        assert torch.cat(cut.parts).sort().values.tolist() == list(range(6))
        assert cut.noise == pytest.approx(least(spreads, len(cut.parts)))
        assert cut.noise == pytest.approx(noise_of(spreads, list(cut.parts)))


def test_parts_have_whole_multiples_save_the_last() -> None:
    values = torch.linspace(0, 6, 22).exp().tolist()
    for cut in best_cuts([spread(values)], 3, 4):
        assert all(len(part) % 4 == 0 for part in cut.parts[:-1])


def test_channels_of_one_reach_are_not_cut() -> None:
    assert [len(cut.parts) for cut in best_cuts([spread([3.0] * 8)], 4, 1)] == [1]


def test_a_channel_that_holds_nothing_does_not_count() -> None:
    alive, with_dead = spread([4, 2, 1]), spread([4, 2, 1, 0.0])
    assert noise_of_one([with_dead]) == pytest.approx(noise_of_one([alive]))
