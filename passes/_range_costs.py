"""What rounding the rows of weights costs at a graph's outputs, to first order.

An error e of a weight moves the outputs by (∂y/∂w) e, so that errors spread evenly over a step Δ make the noise
Σ (∂y/∂w)² · Δ²/12. The sum of the squared derivatives over all outputs is estimated with random signs on them
(Hutchinson 1990): one backward pass gives it for every weight. It is relative to the power of what varies in an
output from sample to sample; each output counts the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from ..compiler.ir.passes import flatten_tensors
from ..compiler.quant.value_noise import random_signs
from ._layers import Layer

_PROJECTIONS = 2


def row_costs(
    gm: fx.GraphModule, layers: Mapping[fx.Node, Layer], batches: Iterable[tuple[Tensor, ...]], seed: int
) -> dict[str, Tensor]:
    """By name of the layer: noise over signal at the outputs for an error of power 1 in each weight of a row,
    float64 [outputs of the layer]; empty where there are no two samples in a batch to see what varies."""
    leaves = {node.all_input_nodes[1]: layer.weight.clone().requires_grad_() for node, layer in layers.items()}
    squares = {node: torch.zeros_like(leaf, dtype=torch.float64) for node, leaf in leaves.items()}
    generator, samples = torch.Generator().manual_seed(seed), 0
    for batch in batches:
        if len(batch[0]) < 2:
            continue
        with torch.enable_grad():
            outputs = [out for out in flatten_tensors([_WithLeaves(gm, leaves).run(*batch)]) if out.requires_grad]
        for _ in range(_PROJECTIONS if outputs else 0):
            signs = [random_signs(out, generator) for out in outputs]
            found = torch.autograd.grad(
                outputs, list(leaves.values()), signs, retain_graph=True, allow_unused=True
            )
            for node, gradient in zip(leaves, found, strict=True):
                squares[node] += 0 if gradient is None else gradient.double().square()
        samples += len(batch[0])
    if not samples:
        return {}
    count = _PROJECTIONS * samples
    return {node.name: _rows(layer, squares[node.all_input_nodes[1]]) / count for node, layer in layers.items()}


class _WithLeaves(fx.Interpreter):
    """Runs the graph with these tensors in the place of constants."""

    def __init__(self, gm: fx.GraphModule, leaves: Mapping[fx.Node, Tensor]) -> None:
        super().__init__(gm)
        self.extra_traceback = False
        self._leaves = leaves

    def run_node(self, n: fx.Node) -> Any:
        return self._leaves[n] if n in self._leaves else super().run_node(n)


def _rows(layer: Layer, squares: Tensor) -> Tensor:
    return dataclasses.replace(layer, weight=squares).by_input().flatten(2).sum(2).flatten()
