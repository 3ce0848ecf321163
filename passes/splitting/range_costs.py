"""What rounding the rows of weights and the channels of activations costs at a graph's outputs, to first order.

An error e moves the outputs by (∂y/∂w) e or (∂y/∂x) e, so that errors spread evenly over a step Δ make the noise
Σ (∂y/∂·)² · Δ²/12, for all elements of a row or channel. Gradients are those of `quant/output_noise.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from ...compiler.quant.output_noise import Tape
from .._layers import Layer

_PROJECTIONS = 2


@dataclass(frozen=True, slots=True)
class RangeCosts:
    """Noise over signal at the outputs for an error of power 1 in each element of a row or channel, float64: by
    name of a layer for the rows of its weight, by name of a value for its channels."""

    rows: dict[str, Tensor]
    channels: dict[str, Tensor]

    def reorder(self, rows: Mapping[str, Tensor], channels: Mapping[str, Tensor]) -> None:
        """Follow the graph: rows and channels whose new i is the old order[i], by name."""
        for known, orders in ((self.rows, rows), (self.channels, channels)):
            for name in known.keys() & orders.keys():
                known[name] = known[name][orders[name]]


def range_costs(
    gm: fx.GraphModule,
    layers: Mapping[fx.Node, Layer],
    axes: Mapping[str, int],
    batches: Iterable[tuple[Tensor, ...]],
    seed: int,
) -> RangeCosts | None:
    """The costs of the weights of `layers` and of the values of `axes`, by name with the axis of their channels;
    None where there are no two samples in a batch to see what varies."""
    weights = {node.name: node.all_input_nodes[1].name for node in layers}
    tape, generator = Tape(gm, {*weights.values(), *axes}), torch.Generator().manual_seed(seed)
    by_element: dict[str, Tensor] = {}
    by_channel: dict[str, Tensor] = {}
    samples = 0
    for batch in batches:
        if len(batch[0]) < 2:
            continue
        tape.record(batch)
        for _ in range(_PROJECTIONS):
            for name, value, gradient in tape.gradients(generator):
                squares = gradient.double().square()
                if name in axes:
                    others = [axis for axis in range(value.ndim) if axis != axes[name] % value.ndim]
                    by_channel[name] = by_channel.get(name, 0) + squares.sum(others)
                else:
                    by_element[name] = by_element.get(name, 0) + squares
        samples += len(batch[0])
    if not samples:
        return None
    count = _PROJECTIONS * samples
    rows = {
        node.name: _rows(layer, by_element[name]) / count
        for node, layer in layers.items()
        if (name := weights[node.name]) in by_element
    }
    return RangeCosts(rows, {name: total / count for name, total in by_channel.items()})


def _rows(layer: Layer, squares: Tensor) -> Tensor:
    return dataclasses.replace(layer, weight=squares).by_input().flatten(2).sum(2).flatten()
