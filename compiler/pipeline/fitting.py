"""Whether samples fit the captured model: their number, types and sizes, said in the user's terms."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from ..ir.capture import Capturable
from ..ir.errors import InputError
from ..ir.nodes import input_name, placeholders
from ..ir.shapes import fits, tensor_meta, type_text
from .data import Batch, Dataset
from .options import CompileOptions


def example_inputs(data: Dataset, count: int | None = None) -> tuple[Tensor, ...]:
    """The first `count` samples, or two (one repeated if need be): what the graph is captured and checked on."""
    first = next(iter(data), None)
    if first is None:
        raise InputError(f"{data.name} has no samples.")
    if count is not None:
        return tuple(tensor[:count] for tensor in first.inputs)
    tensors = tuple(tensor[:2] for tensor in first.inputs)
    return tuple(torch.cat([t, t]) if len(t) == 1 else t for t in tensors)


def one_sample(gm: fx.GraphModule, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The first sample of `inputs`; all of a batch whose size is fixed."""
    meta = tensor_meta(placeholders(gm)[0])
    fixed = meta is not None and isinstance(meta.shape[0], int)
    return [tensor if fixed else tensor[:1] for tensor in inputs]


def fixed_batch(model: Capturable, options: CompileOptions) -> int | None:
    """How many samples every batch must have; None where any number will do.

    An exported program says it itself; a module captured without a dynamic batch axis takes one sample.
    """
    if not isinstance(model, ExportedProgram):
        return None if 0 in options.dynamic_axes else 1
    names = set(model.graph_signature.user_inputs)
    node = next(node for node in model.graph.nodes if node.op == "placeholder" and node.name in names)
    size = node.meta["val"].shape[0]
    return size if isinstance(size, int) else None


def in_batches_of(data: Dataset, size: int | None) -> Dataset:
    """`data` in batches of `size` samples (the last may have fewer); as it is for None."""
    return data if size is None else dataclasses.replace(data, batch_size=size)


def fitting_batches(gm: fx.GraphModule, data: Dataset) -> Iterator[Batch]:
    """The batches of `data`, each checked.

    Raises:
        InputError: see `require_fit`.
    """
    done = 0
    for batch in data:
        require_fit(gm, batch.inputs, f"{data.name}, samples from {done},")
        done += len(batch.inputs[0])
        yield batch


def require_fit(gm: fx.GraphModule, inputs: Sequence[Tensor], source: str) -> None:
    """Check `inputs` against the inputs of `gm`; an axis captured as dynamic takes any size.

    Raises:
        InputError: another number of inputs, another type, rank or size; names the input and both types.
    """
    expected = placeholders(gm)
    if len(inputs) != len(expected):
        names = ", ".join(map(input_name, expected))
        raise InputError(f"{source} has {len(inputs)} input(s), but the model takes {len(expected)}: {names}")
    for node, tensor in zip(expected, inputs, strict=True):
        meta = tensor_meta(node)
        if meta is not None and not fits(tensor, meta):
            raise InputError(
                f"{source} has {type_text(tensor)} as input {input_name(node)}, but the model takes "
                f"{type_text(meta)}: check the data and the preprocessing (layout, size, dtype)"
            )
