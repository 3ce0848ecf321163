"""Values and the orders in which their axes are stored.

A graph value has its axes in torch's order, channels first. A tensor holds it in some *form*: axis `i` of the
tensor is axis `form[i]` of the value. Kernels of images want channels last, most other ops take any form, so that
a value is turned only where a reader cannot take the form that there is: a permutation in the graph costs nothing
until then, and moving an axis of size 1 is a reshape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ...compiler.quant.qparams import QParams
from .writer import Size, Tensor, Writer

Form = tuple[int, ...]


@dataclass(slots=True, eq=False)
class Value:
    """One fx value. `sizes` are in torch's order, a symbol's text where they may change at run time.

    `forms` has the tensors written so far. `stored` are the numbers of a constant. `make` writes a form that is
    asked for, where `likely` is the one that comes cheapest. `flattened` is the value whose axes from 1 on this
    one holds in a single axis.
    """

    sizes: tuple[Size, ...]
    dtype: torch.dtype
    qparams: QParams | None = None
    name: str = ""
    forms: dict[Form, Tensor] = field(default_factory=dict)
    stored: torch.Tensor | None = None
    make: Callable[[Form], Tensor] | None = None
    likely: Form | None = None
    flattened: Value | None = None

    @property
    def rank(self) -> int:
        return len(self.sizes)

    def preferred(self) -> Form:
        """The form that costs nothing to read."""
        if self.forms:
            return next(iter(self.forms))
        return self.likely or natural(self.rank)


def natural(rank: int) -> Form:
    return tuple(range(rank))


def channels_last(rank: int) -> Form:
    """Batch, the spatial axes, channels; below rank 3 the order stays."""
    return (0, *range(2, rank), 1) if rank > 2 else natural(rank)


def in_form(sizes: Sequence[Size], form: Form) -> tuple[Size, ...]:
    return tuple(sizes[axis] for axis in form)


def held(tensor: Tensor, sizes: Sequence[Size], form: Form | None = None) -> Value:
    """The value that `tensor` holds in `form` (by default torch's order)."""
    order = natural(len(sizes)) if form is None else form
    return Value(tuple(sizes), tensor.dtype, tensor.qparams, tensor.name, {order: tensor})


def constant_value(stored: torch.Tensor, name: str = "", qparams: QParams | None = None) -> Value:
    return Value(tuple(stored.shape), stored.dtype, qparams, name, stored=stored)


def read(w: Writer, value: Value, form: Form | None = None) -> Tensor:
    """The tensor that holds `value` in `form`, by default torch's order; written here if there is none yet."""
    wanted = natural(value.rank) if form is None else form
    if wanted not in value.forms:
        if value.stored is not None:
            value.forms[wanted] = w.constant(value.stored.permute(wanted), value.name, value.qparams)
        elif value.make is not None and not value.forms:
            return _made(w, value, wanted)
        else:
            have = next(iter(value.forms))
            value.forms[wanted] = _turn(w, value.forms[have], have, wanted)
    return value.forms[wanted]


def _made(w: Writer, value: Value, wanted: Form) -> Tensor:
    assert value.make is not None
    only = value.flattened is not None
    value.forms[natural(value.rank) if only else wanted] = value.make(natural(value.rank) if only else wanted)
    return read(w, value, wanted)


def _turn(w: Writer, tensor: Tensor, have: Form, wanted: Form) -> Tensor:
    """`tensor` with its axes in another order."""
    order = tuple(have.index(axis) for axis in wanted)
    sizes = in_form(tensor.shape, order)
    name = f"{tensor.name}/{'x'.join(map(str, order))}"
    moved = [axis for axis in order if tensor.shape[axis] != 1]
    if moved == sorted(moved) and sum(not isinstance(size, int) for size in sizes) <= 1:
        return reshape(w, tensor, sizes, name)
    return w.op("TRANSPOSE", [tensor, w.ints(order)], sizes, name, qparams=tensor.qparams)


def reshape(w: Writer, tensor: Tensor, sizes: Sequence[Size], name: str | None = None) -> Tensor:
    """`tensor` in other sizes, of which one at most is symbolic."""
    if tuple(sizes) == tensor.shape:
        return tensor
    target = [size if isinstance(size, int) else -1 for size in sizes]
    assert target.count(-1) <= 1, f"{tensor.name}: more than one size is unknown"
    operands = [tensor, w.ints(target)]
    return w.op("RESHAPE", operands, sizes, name, dtype=tensor.dtype, qparams=tensor.qparams, newShape=target)


def same_memory(value: Value) -> Tensor | None:
    """A tensor that holds the numbers of `value` one after the other as torch's order does, if there is one."""
    for form, tensor in value.forms.items():
        moved = [axis for axis in form if value.sizes[axis] != 1]
        if moved == sorted(moved):
            return tensor
    return None


def dequantized(w: Writer, source: Value, name: str) -> Value:
    """The float value of integers, written in the form that its first reader asks for."""

    def make(form: Form) -> Tensor:
        tensor = read(w, source, form)
        return w.op("DEQUANTIZE", [tensor], tensor.shape, name, dtype=torch.float32)

    return Value(source.sizes, torch.float32, None, name, make=make, likely=source.preferred())


def common_form(values: Sequence[Value], rank: int) -> Form:
    """The form in which an op of several operands costs least: that of the largest operand of full rank."""
    full = [value for value in values if value.rank == rank and value.stored is None]
    if not full:
        return natural(rank)
    return max(full, key=_weight).preferred()


def _weight(value: Value) -> tuple[int, int]:
    count = 1
    for size in value.sizes:
        count *= size if isinstance(size, int) else 1
    return count, len([size for size in value.sizes if size != 1])


def aligned(w: Writer, value: Value, form: Form) -> Tensor:
    """`value` as an operand of an op whose result has `form`; leading axes of size 1 are added."""
    rank = len(form)
    if value.rank == rank:
        return read(w, value, form)
    if value.rank == 0:
        return read(w, value)
    sizes = (1,) * (rank - value.rank) + value.sizes
    if value.stored is not None:
        stored = value.stored.reshape([int(size) for size in sizes])
        return read(w, constant_value(stored, value.name, value.qparams), form)
    if form == natural(rank):
        return read(w, value)
    return read(w, held(reshape(w, read(w, value), sizes), sizes), form)
