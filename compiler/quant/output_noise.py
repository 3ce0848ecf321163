"""What an error in any value inside a graph does to its outputs, for all values from one backward pass.

To first order an error e in a value moves the outputs by J e. The power of that is estimated with random signs v
on the outputs: E (vᵀ J e)² = |J e|² (Hutchinson 1990), and vᵀ J is what one backward pass gives for every value at
once.

What counts as an output: where an output is put together by concats, each of their parts is one, so that what
varies little (a detector's class scores) counts as much as what varies widely (its boxes).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ..ir.nodes import flat_outputs
from ..ir.ops import SAME_SIZE_VIEWS, aten

_MOVES = (SAME_SIZE_VIEWS - {aten.slice.Tensor}) | {aten.view.default, aten.contiguous.default}


def output_parts(gm: fx.GraphModule) -> list[fx.Node]:
    """The nodes whose values the outputs are made of by concats and by views that keep every element."""
    found: dict[fx.Node, None] = {}
    waiting = [*flat_outputs(gm).values()][::-1]
    while waiting:
        node = waiting.pop()
        if node.target is aten.cat.default or node.target in _MOVES:
            waiting += node.all_input_nodes[::-1]
        else:
            found[node] = None
    return list(found)


def signal_power(output: Tensor) -> float:
    """The power of a sample's deviation from the mean over samples; of a single sample: from its own mean."""
    output = torch.atleast_1d(output.detach())
    mean = output.mean(0) if len(output) > 1 else output.mean()
    return float((output - mean).double().square().sum() / max(len(output) - 1, 1))


def random_signs(output: Tensor, generator: torch.Generator) -> Tensor:
    """±1 over the root of the signal's power, for which the square of what an error makes of it is noise over
    signal; 0 where nothing varies."""
    root = signal_power(output) ** 0.5
    signs = torch.randint(0, 2, output.shape, generator=generator).to(output.dtype) * 2 - 1
    return signs / root if root else torch.zeros_like(signs)


class Tape(fx.Interpreter):
    """Runs a graph and remembers the values of some nodes, and what their errors do to the outputs."""

    def __init__(self, gm: fx.GraphModule, names: Collection[str]) -> None:
        super().__init__(gm)
        self.extra_traceback = False
        self._names = frozenset(names)
        self._parts = frozenset(output_parts(gm))
        self._values: dict[str, Tensor] = {}
        self._outputs: list[Tensor] = []
        self._sampled: set[str] = set()

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self._names:
            if not result.requires_grad:
                result = result.detach().requires_grad_()
            self._values[n.name] = result
            if n.op != "get_attr" and result.ndim > 1:  # a constant's errors are the same in all samples
                self._sampled.add(n.name)
        if n in self._parts and isinstance(result, Tensor) and result.is_floating_point():
            self._outputs.append(result)
        return result

    def record(self, batch: Sequence[Tensor]) -> None:
        """Run the graph on one batch."""
        self._values, self._outputs = {}, []
        with torch.enable_grad():
            self.run(*batch)

    def gradients(self, generator: torch.Generator) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Name, value and gradient, for one choice of random signs on all outputs, of which each counts the same;
        values that reach no output are left out."""
        outputs = [out for out in self._outputs if out.requires_grad]
        if not outputs or not self._values:
            return
        signs = [random_signs(out, generator) / len(outputs) ** 0.5 for out in outputs]
        values = list(self._values.values())
        found = torch.autograd.grad(outputs, values, signs, retain_graph=True, allow_unused=True)
        for (name, value), gradient in zip(self._values.items(), found, strict=True):
            if gradient is not None:
                yield name, value.detach(), gradient

    def by_sample(self, name: str) -> bool:
        """Whether the first axis of a recorded value is that of the samples."""
        return name in self._sampled

    def effect(self, name: str, gradient: Tensor, error: Tensor) -> float:
        """Squares of what `error` in a value does to the outputs of each sample, summed over the samples."""
        shape = (len(error), -1) if self.by_sample(name) else (1, -1)
        return float(torch.linalg.vecdot(gradient.reshape(shape), error.reshape(shape)).square().sum())
