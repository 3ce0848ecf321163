"""How much of a layer's noise arrives at the outputs of a float graph, measured on a few samples.

Each layer's weight alone is rounded, and the graph run: the transfer is the power of what that does to the
outputs, relative to theirs, over the power of the rounding error relative to the weight's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ...compiler.ir.nodes import placeholders
from ...compiler.ir.passes import PassContext, flatten_tensors
from ...compiler.ir.shapes import tensor_meta

_SAMPLES = 8


def few_samples(gm: fx.GraphModule, ctx: PassContext) -> tuple[Tensor, ...] | None:
    """The first few calibration samples, or None where there are none. An input of fixed size is taken whole."""
    batch = next(iter(ctx.batches()), None) if ctx.batches is not None else None
    if batch is None:
        return None
    metas = [tensor_meta(node) for node in placeholders(gm)]
    fixed = any(meta is None or meta.ndim == 0 or isinstance(meta.shape[0], int) for meta in metas)
    return tuple(batch) if fixed else tuple(tensor[:_SAMPLES] for tensor in batch)


def output_noise(
    gm: fx.GraphModule, samples: Sequence[Tensor], rounded: Mapping[str, Tensor], ctx: PassContext
) -> dict[str, float]:
    """Weight name -> the relative power of what putting `rounded[name]` in its place does to the outputs."""
    noise = {}
    with torch.no_grad(), ctx.progress.track("noise of layers", len(rounded)) as advance:
        expected = _Substitute(gm, "", None).outputs(samples)
        for count, (name, value) in enumerate(rounded.items(), 1):
            noise[name] = _relative_power(_Substitute(gm, name, value).outputs(samples), expected)
            advance(count)
    return noise


def _relative_power(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Mean over the outputs of |actual - expected|² / |expected|²."""
    pairs = [(a.double(), e.double()) for a, e in zip(actual, expected, strict=True) if e.is_floating_point()]
    shares = [float((a - e).square().sum() / e.square().sum().clamp(min=1e-30)) for a, e in pairs]
    return sum(shares) / len(shares) if shares else 0.0


class _Substitute(fx.Interpreter):
    """The graph with another tensor for one constant."""

    def __init__(self, gm: fx.GraphModule, name: str, value: Tensor | None) -> None:
        super().__init__(gm)
        self.extra_traceback = False  # fx would add its own lines to every message
        self._name, self._value = name, value

    def outputs(self, samples: Sequence[Tensor]) -> list[Tensor]:
        return flatten_tensors(self.run(*samples))

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._value if target == self._name else super().get_attr(target, args, kwargs)
