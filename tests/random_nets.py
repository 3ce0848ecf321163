"""Small random nets made of every op that a target must take, grown one op at a time from a seed.

The first `n` ops of a seed are the same for every length, so the shortest net of a seed that fails is found by
growing it. Values have the batch on axis 0; ops are chosen by the rank of the value that they read.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from random_ops import MAKERS, MAKERS_INT, TWO, Step
from support import with_random_norms
from torch import Tensor, nn

MAX_ELEMENTS = 4096  # of one sample: larger values are not grown further


class RandomNet(nn.Module):
    """`sizes` are the inputs' shapes without the batch. `text` lists the ops, one line each."""

    def __init__(self, seed: int, length: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        torch.manual_seed(seed)
        self.parts = nn.ModuleList()
        self.steps: list[tuple[Step, tuple[int, ...]]] = []
        self.text: list[str] = []
        self.sizes = _input_sizes(self.random)
        self.generator = torch.Generator().manual_seed(seed)
        values = list(self.examples(2))
        self.inputs = len(values)
        while len(self.steps) < length:
            self._grow(values)
        self.as_dict = self.random.random() < 0.2
        used = {index for _, reads in self.steps for index in reads}
        self.outputs = [i for i in range(len(values)) if i not in used] or [len(values) - 1]
        with_random_norms(self)

    def examples(self, batch: int) -> tuple[Tensor, ...]:
        """Random inputs; an integer size stands for token indices."""
        return tuple(
            torch.randint(0, 11, (batch, *size[1:]), generator=self.generator)
            if size[0] == 0
            else torch.randn((batch, *size), generator=self.generator)
            for size in self.sizes
        )

    def part(self, module: nn.Module) -> nn.Module:
        self.parts.append(module)
        return module

    def _grow(self, values: list[Tensor]) -> None:
        rng = self.random
        index = len(values) - 1 if rng.random() < 0.7 else rng.randrange(len(values))
        x = values[index]
        makers = MAKERS_INT if not x.is_floating_point() else MAKERS[x.ndim]
        found = rng.choice(makers)(rng, self, x)
        if found is None:
            return
        text, step = found
        others = _operands(rng, values, index) if text in TWO else ()
        if text in TWO and not others:
            return
        reads = (index, *others)
        with torch.no_grad():
            result = step(*(values[i] for i in reads))
        results = result if isinstance(result, (tuple, list)) else (result,)
        if any(r.ndim < 2 or r.ndim > 5 or r.numel() > 2 * MAX_ELEMENTS or r.shape[0] != 2 for r in results):
            return
        self.steps.append((step, reads))
        names = ", ".join(f"v{len(values) + i}" for i in range(len(results)))
        shapes = ", ".join(str(tuple(r.shape)) for r in results)
        self.text.append(f"{names} = {text}({', '.join(f'v{i}' for i in reads)})  # {shapes}")
        values.extend(results)

    def forward(self, *inputs: Tensor) -> Any:
        values = list(inputs)
        for step, reads in self.steps:
            result = step(*(values[i] for i in reads))
            values.extend(result if isinstance(result, (tuple, list)) else (result,))
        outputs = [values[i] for i in self.outputs]
        if self.as_dict:
            return {f"out{i}": value for i, value in enumerate(outputs)}
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _input_sizes(rng: random.Random) -> list[tuple[int, ...]]:
    """One to three inputs; a leading 0 stands for token indices."""
    kinds = [
        (rng.choice((1, 3, 4, 8)), rng.choice((7, 8, 12)), rng.choice((7, 8, 12))),
        (rng.choice((2, 4, 6)), rng.choice((9, 16))),
        (rng.choice((5, 8)),),
        (2, 5, 6, 6),
        (0, rng.choice((4, 7))),
    ]
    weights = (6, 2, 1, 1, 1)
    first = rng.choices(kinds, weights)[0]
    sizes = [first]
    if rng.random() < 0.25:
        sizes.append(first if rng.random() < 0.5 and first[0] else rng.choices(kinds, weights)[0])
    return sizes


def _operands(rng: random.Random, values: Sequence[Tensor], index: int) -> tuple[int, ...]:
    """Another value that broadcasts with the one at `index`, or the same again."""
    shape = values[index].shape
    fits = [
        i
        for i, v in enumerate(values)
        if v.is_floating_point()
        and v.ndim == len(shape)
        and all(b in (a, 1) for a, b in zip(shape, v.shape, strict=True))
    ]
    return (rng.choice(fits),) if fits else ()
