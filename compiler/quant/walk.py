"""Walk a program step by step over several batches at once, with the float graph beside it.

What tunes one layer after the other (bias correction, learned rounding) sees each layer's integer inputs as the
target computes them, all earlier layers already tuned, and beside them the float values that it should give.
Live values only are held: integers in their own 8-bit types, float values until their last reader.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ..ir.nodes import placeholders
from ..ir.passes import PassContext
from ..ir.progress import Progress, Silent
from ..ir.shapes import tensor_meta
from .program import FloatStep, IntegerStep, Program, float_layers, float_result
from .qparams import dequantize
from .simulate import last_uses, run_node, run_step

_LARGEST_HELD = 2**27  # bytes of the largest values where a backward pass holds all

# step, its integer inputs (one list over batches for each entry of step.inputs) -> the step to go on with
Visit = Callable[[IntegerStep, Sequence[Sequence[Tensor]]], IntegerStep]


def walk(
    program: Program,
    batches: Iterable[tuple[Tensor, ...]],
    visit: Visit,
    progress: Progress | None = None,
    *,
    floats: bool = False,
) -> Program:
    """Run `program` over `batches`, one step at a time over all of them; the program with the steps returned.

    `visit` is called for each of `layers(program)`, with `floats` for each of `float_layers(program)` too, in
    order, before it runs: what it returns (the step itself, or one with another weight or bias) is what runs and
    what later steps see.
    """
    in_float = float_layers(program) if floats else {}
    values: list[dict[str, Any]] = [dict(zip(program.inputs, batch, strict=True)) for batch in batches]
    for held in values:
        held |= {name: value.to(torch.int32) for name, value in program.constants.items()}
    last_use, steps = last_uses(program), list(program.steps)
    with torch.no_grad(), (progress or Silent()).track("tune layers", len(steps)) as advance:
        for position, step in enumerate(steps):
            if isinstance(step, IntegerStep) and step.weight is not None:
                step = visit(step, [[held[name] for held in values] for name in step.inputs])
                steps[position] = step
            layer = in_float.get(step.name)
            if layer is None and isinstance(step, FloatStep):
                layer = float_result(program, step)
            if layer is not None:
                layer = visit(layer, [[_integers(layer, held) for held in values]])
            for held in values:
                held[step.name] = run_step(program, step, held) if layer is None else _real(layer, held)
                for name in last_use.get(position, ()):
                    held.pop(name, None)
            advance(position + 1)
    return Program(program.gm, program.spec, tuple(steps), program.inputs, program.outputs, program.constants)


def _integers(layer: IntegerStep, held: Mapping[str, Any]) -> Tensor:
    """What a layer of `float_result` reads, from the float value that they stand for; of `float_layers`, that
    value."""
    (qp,), real = layer.in_qparams, held[_activation(layer).name]
    if layer.in_float:
        return real
    return (torch.round(real / qp.scale_tensor()) + qp.zero_point[0]).to(qp.dtype)


def _real(layer: IntegerStep, held: Mapping[str, Any]) -> Tensor:
    """The float result of such a layer, with the weight and bias that it has now."""
    assert layer.weight is not None
    assert layer.weight_qparams is not None
    bias = layer.bias
    if bias is not None and not bias.is_floating_point():
        bias = bias * (layer.weight_qparams.scale_tensor() * layer.in_qparams[0].scale_tensor())
    attrs = {key: value for key, value in layer.attrs.items() if key != "bias"}
    weight = layer.weight if layer.in_float else dequantize(layer.weight, layer.weight_qparams)
    return layer.anchor.target(held[_activation(layer).name], weight, bias, **attrs)  # type: ignore[operator]


def _activation(layer: IntegerStep) -> fx.Node:
    return layer.anchor.all_input_nodes[0]


class FloatWalk:
    """The float graph over the same batches, advanced as far as asked.

    Ask for values in graph order; each of `wanted` is held until it was asked for, everything else until its last
    reader ran.
    """

    def __init__(self, gm: fx.GraphModule, batches: Iterable[tuple[Tensor, ...]], wanted: Collection[str]) -> None:
        self._gm, self._wanted = gm, set(wanted)
        self._todo = [node for node in gm.graph.nodes if node.op == "call_function"]
        self._todo.reverse()
        names = [node.name for node in gm.graph.nodes if node.op == "placeholder"]
        self._values: list[dict[str, Any]] = [dict(zip(names, batch, strict=True)) for batch in batches]
        self._readers = {node.name: len(node.users) for node in gm.graph.nodes}

    def value(self, name: str) -> list[Tensor]:
        """The value of the node called `name`, one tensor for each batch; it can be asked for once.

        Raises:
            KeyError: no node ahead has this name.
        """
        with torch.no_grad():
            while self._todo and name not in self._values[0]:
                self._advance(self._todo.pop())
        found = [held[name] for held in self._values]
        self._wanted.discard(name)
        self._drop_if_unread(name)
        return found

    def _advance(self, node: fx.Node) -> None:
        for held in self._values:
            held[node.name] = run_node(self._gm, node, held)
        for source in node.all_input_nodes:
            self._readers[source.name] -= 1
            self._drop_if_unread(source.name)

    def _drop_if_unread(self, name: str) -> None:
        if self._readers[name] == 0 and name not in self._wanted:
            for held in self._values:
                held.pop(name, None)


def take_batches(ctx: PassContext, samples: int, budget: int) -> Iterator[tuple[Tensor, ...]]:
    """The first calibration batches of together at most `samples` that a walk can hold in about `budget` bytes;
    one at least. `ctx` has batches and the float reference."""
    assert ctx.batches is not None
    assert ctx.reference is not None
    left = min(samples, samples_within(ctx.reference, budget))
    for batch in ctx.batches():
        yield batch
        left -= len(batch[0])
        if left < len(batch[0]):
            return


def first_samples(
    gm: fx.GraphModule, batches: Iterable[Sequence[Tensor]], count: int, at_once: int | None = None
) -> Iterator[tuple[Tensor, ...]]:
    """Batches with the first `count` samples in all, or as many as there are; of each batch, at most `at_once`.
    A graph that takes batches of one size only gets whole ones."""
    whole = not takes_any_batch(gm)
    for batch in batches:
        if count <= 0:
            return
        most = len(batch[0]) if whole else count if at_once is None else min(count, at_once)
        yield tuple(tensor[:most] for tensor in batch)
        count -= min(most, len(batch[0]))


def gradient_samples(
    gm: fx.GraphModule, batches: Iterable[Sequence[Tensor]], count: int
) -> Iterator[tuple[Tensor, ...]]:
    """The first `count` samples, as many at once as a backward pass can hold: two at least, to see what varies."""
    return first_samples(gm, batches, count, max(2, samples_within(gm, _LARGEST_HELD)))


def takes_any_batch(gm: fx.GraphModule) -> bool:
    """Whether the first axis of every input, the batch, may have any size."""
    metas = [tensor_meta(node) for node in placeholders(gm)]
    return not any(meta is not None and meta.ndim and isinstance(meta.shape[0], int) for meta in metas)


def samples_within(gm: fx.GraphModule, budget: int) -> int:
    """How many samples a walk over `gm` (annotated, axis 0 the batch) can hold in `budget` bytes; at least 1.

    Counted as four times the largest value: a layer's float input and output, and its integers at work.
    """
    largest = 1
    for node in gm.graph.nodes:
        meta = tensor_meta(node)
        if meta is not None and node.op == "call_function" and meta.ndim:
            sizes = [size for size in meta.shape[1:] if isinstance(size, int)]
            largest = max(largest, int(torch.Size(sizes).numel()) * 4)
    return max(1, budget // (4 * largest))
