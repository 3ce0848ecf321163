"""Weights whose 16-bit pair sums cannot saturate, next to what they were.

Two ways to get the pairs of a channel below the limit, weighed against each other by what they add to its squared
weight error:

* the pairs above the limit give up their excess, each weight its share (rounding errors count), the scale stays;
* the channel gets a scale larger by up to the factor that its worst pair needs, and is rounded anew: every weight
  becomes a little coarser, and pairs still above the limit give up what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Scales tried between the channel's own and twice it, which is enough for any pair.
_STEPS = 16
_WEIGHTS_AT_ONCE = 2**22


@dataclass(frozen=True, slots=True)
class PairLayout:
    """Which weights meet: `places` [rows, pairs, 2] are flat positions in the weight plus one, 0 where there is
    none. `limit` bounds the sum of two weights of one sign."""

    places: Tensor
    limit: int

    @classmethod
    def of(cls, weight: Tensor, pairing: Callable[[Tensor], Tensor], limit: int) -> PairLayout:
        """From a pairing of tensors in the weight's layout."""
        paired = pairing(torch.arange(1, weight.numel() + 1).reshape(weight.shape))
        return cls(paired.reshape(len(paired), -1, 2), limit)

    def rows(self, weight: Tensor) -> Tensor:
        """The weight's values at `places`, float32."""
        return torch.cat([weight.new_zeros(1), weight.flatten()])[self.places].float()

    def put(self, weight: Tensor, rows: Tensor) -> Tensor:
        """`weight` with `rows` at `places`; of several values for one weight the smallest, which suits all its
        pairs."""
        flat = torch.cat([weight.new_zeros(1), weight.flatten()]).float()
        places, values = self.places.flatten(), rows.flatten().float()
        magnitude = flat.abs().scatter_reduce(0, places, values.abs(), "amin", include_self=False)
        signed = magnitude * flat.sign().scatter(0, places, values.sign())
        return signed[1:].reshape(weight.shape).to(weight.dtype)


def move_excess(integers: Tensor, wanted: Tensor, layout: PairLayout) -> Tensor:
    """`integers` within the layout's limit; both in the weight's own layout, `wanted` in units of the scale."""
    return layout.put(integers, _within(layout.limit, layout.rows(integers), layout.rows(wanted)))


def choose_scales(
    integers: Tensor, wanted: Tensor, layout: PairLayout, bounds: tuple[int, int], scale_of_row: Tensor
) -> tuple[Tensor, Tensor]:
    """Integers within the layout's limit, and the factor by which each scale grows, float64.

    `integers` are the weight's own and `wanted` its float values in units of the scale; `bounds` the integers
    allowed; `scale_of_row` int64 [rows] says which scale each row of the layout has. Rows whose scale stays and
    that were within the limit keep their integers.
    """
    before, aims = layout.rows(integers), layout.rows(wanted)
    best = _within(layout.limit, before, aims)
    factors = torch.ones(int(scale_of_row.max()) + 1, dtype=torch.float64)
    hit = torch.zeros_like(factors).index_add_(0, scale_of_row, (best != before).flatten(1).any(1).double()) > 0
    rows = hit[scale_of_row].nonzero().flatten()
    for part in _parts(rows, scale_of_row, before[0].numel()):
        scales, mine = scale_of_row[part].unique(return_inverse=True)
        best[part], factors[scales] = _cheapest(before[part], best[part], aims[part], layout.limit, bounds, mine)
    return layout.put(integers, best), factors


def _parts(rows: Tensor, scale_of_row: Tensor, width: int) -> list[Tensor]:
    """`rows` in pieces of bounded size; the rows of one scale stay together."""
    ordered = rows[scale_of_row[rows].argsort(stable=True)]
    _, counts = scale_of_row[ordered].unique_consecutive(return_counts=True)
    sizes = [0]
    for count in counts.tolist():
        if sizes[-1] and (sizes[-1] + count) * width > _WEIGHTS_AT_ONCE:
            sizes.append(0)
        sizes[-1] += count
    return list(ordered.split(sizes))


def _cheapest(
    before: Tensor, moved: Tensor, aims: Tensor, limit: int, bounds: tuple[int, int], scale_of_row: Tensor
) -> tuple[Tensor, Tensor]:
    """The rows and the factor of each scale with the least added error: `moved` at factor 1, or rounded anew."""
    count = int(scale_of_row.max()) + 1

    def by_scale(errors: Tensor) -> Tensor:
        return errors.new_zeros(count).index_add_(0, scale_of_row, errors)

    best, factors = moved, torch.ones(count, dtype=torch.float64)
    added = by_scale(_squares(moved - aims) - _squares(before - aims))
    nearest = _squares(torch.round(aims).clamp(*bounds) - aims)
    for step in range(1, _STEPS + 1):
        factor = 1 + step / _STEPS
        coarse = aims / factor
        trial = _within(limit, torch.round(coarse).clamp(*bounds), coarse)
        cost = by_scale(_squares(trial * factor - aims) - nearest)
        better = cost < added
        best = torch.where(better[scale_of_row, None, None], trial, best)
        added = torch.where(better, cost, added)
        factors[better] = factor
    return best, factors


def _within(limit: int, pairs: Tensor, aims: Tensor) -> Tensor:
    """Pairs [rows, pairs, 2], the excess of each shared out so that the squared distance to `aims` is least."""
    first, second = pairs.unbind(-1)
    same = (first > 0) == (second > 0)
    excess = torch.where(same, (first.abs() + second.abs() - limit).clamp(min=0), 0.0)
    if not excess.any():
        return pairs
    over = (pairs - aims) * pairs.sign()
    share = torch.round((over[..., 0] - over[..., 1] + excess) / 2).clamp(min=torch.zeros_like(excess), max=excess)
    return pairs - torch.stack([share, excess - share], -1) * pairs.sign()


def _squares(errors: Tensor) -> Tensor:
    """Sum of squares of each row."""
    return (errors**2).flatten(1).sum(1)
