"""The search for the channel factors of least noise, and which channels it leaves alone."""

from __future__ import annotations

import dataclasses
import itertools
import math

import torch
from torch import Tensor, fx

from ...compiler.ir.constants import constant
from ...compiler.ir.nodes import describe
from ...compiler.ir.passes import Skip
from ...compiler.ir.progress import Advance
from .maps import ChannelMap
from .noise import NoiseModel
from .pinned_clamps import Groups

STEPS = 60  # at most; the search ends when a step lowers the noise
_SETTLED = 5e-4  # by less than this part of it
_LARGEST_FACTOR = 2.0**16
_SMALLEST_WEIGHT, _LARGEST_WEIGHT = 2.0**-90, 2.0**90  # beyond, factors would meet the ends of float32


def least_noise(model: NoiseModel, groups: Groups, advance: Advance) -> Tensor:
    """Logarithms of the factors of least noise, float64 [classes], by L-BFGS from where all are 1."""
    values = torch.zeros(groups.index.numel(), dtype=torch.float64, requires_grad=True)
    limit = math.log(_LARGEST_FACTOR)

    def logs() -> Tensor:
        free = values[groups.index].masked_fill(groups.fixed, 0.0)
        return groups.within(free.clamp(-limit, limit))

    search = torch.optim.LBFGS(
        [values], max_iter=STEPS, tolerance_change=_SETTLED, history_size=20, line_search_fn="strong_wolfe"
    )
    asked = itertools.count(1)

    def loss() -> Tensor:
        search.zero_grad()
        result = model.smooth(logs()).log()
        result.backward()
        advance(min(next(asked), STEPS))
        return result

    with torch.enable_grad():
        search.step(loss)
    return logs().detach()


def without_extremes(gm: fx.GraphModule, channels: ChannelMap) -> tuple[ChannelMap, list[Skip]]:
    """Fix the classes whose weights lie at the ends of float32, where a factor would round them."""
    reasons, skipped = dict(channels.reasons), []
    for layer in channels.layers:
        weight = constant(gm, layer.weight)
        assert weight is not None
        sizes = (
            layer.by_group(weight.double().abs()).flatten(3) if weight.ndim > 2 else layer.by_group(weight.abs())
        )
        rows = sizes.flatten(2).amax(2).flatten()
        columns = sizes.transpose(1, 2).flatten(2).amax(2).flatten()
        for ids, largest in ((layer.out_ids, rows), (layer.in_ids, columns)):
            extreme = (largest > 0) & ((largest < _SMALLEST_WEIGHT) | (largest > _LARGEST_WEIGHT))
            if bool(extreme.any()):
                name, at = describe(layer.node), float(largest[extreme][0])
                reason = f"{name} has weights at the ends of float32 ({at:.3g})"
                skipped.append(Skip(layer.node.name, f"{int(extreme.sum())} channels keep their scale: {reason}"))
                reasons |= {index: reasons.get(index, reason) for index in ids[extreme].tolist()}
    return dataclasses.replace(channels, reasons=reasons), skipped
