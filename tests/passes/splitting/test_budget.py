"""Where splits go, with noises that are told instead of measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from fxedge.passes.splitting.budget import Candidate, spend
from torch import Tensor


@dataclass
class Site:
    """What `Candidate` asks of a site."""

    channels: int
    groups: int = 1


@dataclass
class Halving:
    """Each split of a channel halves what is left of its noise."""

    start: list[float]
    copies: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.copies = torch.ones(len(self.start), dtype=torch.int64)

    def _noise(self) -> Tensor:
        return torch.tensor(self.start, dtype=torch.float64) / 2.0 ** (self.copies - 1)

    def total(self) -> float:
        return float(self._noise().sum())

    def gains(self) -> Tensor:
        return self._noise() / 2

    def split(self, channel: int) -> None:
        self.copies[channel] += 1

    def clone(self) -> Halving:
        twin = Halving(self.start)
        twin.copies = self.copies.clone()
        return twin


def candidate(start: list[float], factor: float = 1.0, site: Any = None, groups: int = 1) -> Candidate:
    return Candidate(site or Site(len(start), groups), [Halving(start)], [factor])  # type: ignore[list-item]


@pytest.mark.parametrize("budget", [0, 1, 2, 3, 5])
def test_splits_go_to_where_they_save_most(budget: int) -> None:
    first, second = candidate([8.0, 1.0]), candidate([3.0, 3.0])
    spend([first, second], budget)
    taken = [copies for one in (first, second) for copies in (one.copies() - 1).tolist()]
    # what a split saves, in order: 4 and 2 of the first channel, 1.5 of each of the second layer's, 1 of the first
    order = {0: [0, 0, 0, 0], 1: [1, 0, 0, 0], 2: [2, 0, 0, 0], 3: [2, 0, 1, 0], 5: [3, 0, 1, 1]}
    assert taken == order[budget]
    assert first.added + second.added == budget


def test_what_a_layer_counts_for_weighs() -> None:
    first, second = candidate([8.0]), candidate([4.0], factor=10.0)
    spend([first, second], 1)
    assert (first.added, second.added) == (0, 1)


def test_of_two_ways_to_split_a_site_one_is_taken() -> None:
    site = Site(2)
    first, second = candidate([8.0, 8.0], site=site), candidate([7.0, 7.0], site=site)
    spend([first, second], 4)
    assert (first.added, second.added) == (4, 0)


def test_every_group_gets_as_many() -> None:
    grouped = candidate([8.0, 1.0, 4.0, 2.0], groups=2)
    spend([grouped], 3)
    assert grouped.copies().tolist() == [2, 1, 2, 1]


def test_a_layer_is_filled_up_to_a_multiple() -> None:
    one = candidate([8.0, 1.0, 4.0])
    one.take([0])
    one.fill_up(8)
    assert one.copies().sum() == 8
    assert one.added == 5
