"""Lowerings of ops that move, select or make elements.

A symbolic size is an int32 [1] tensor, computed by Shape only where a static shape cannot say the same.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ...compiler.ir.ops import aten, bound_args
from ...compiler.ir.sizes import dtype, shape
from ...compiler.quant.qparams import QParams
from .emit_elementwise import as_kind
from .regroup import regrouped_form
from .table import Call, lowerings
from .values import (
    Form,
    Value,
    aligned,
    common_form,
    constant_value,
    held,
    in_form,
    natural,
    read,
    reshape,
    same_memory,
)
from .writer import Size, Tensor, Writer

_SIZE_ARITHMETIC = {
    operator.add: "ADD",
    operator.sub: "SUB",
    operator.mul: "MUL",
    operator.floordiv: "FLOOR_DIV",
    operator.mod: "FLOOR_MOD",
}


@lowerings.op(aten.sym_size.int)
def symbolic_size(w: Writer, call: Call) -> Value:
    x = call.value("self")
    form = x.preferred()
    axis = form.index(call.args["dim"] % x.rank)
    sizes = w.op("SHAPE", [read(w, x, form)], (x.rank,), dtype=torch.int32, outType=2)
    operands = [sizes, w.ints([axis]), w.ints([axis + 1]), w.ints([1])]
    return held(w.op("STRIDED_SLICE", operands, (1,), call.name), (1,))


@lowerings.op(*_SIZE_ARITHMETIC)
def size_arithmetic(w: Writer, call: Call) -> Value:
    operands = [size_tensor(w, size) for size in call.args.values()]
    code = _SIZE_ARITHMETIC[call.node.target]  # type: ignore[index]
    return held(w.op(code, operands, (1,), call.name), (1,))


def size_tensor(w: Writer, size: int | Value) -> Tensor:
    return read(w, size) if isinstance(size, Value) else w.ints([size])


@lowerings.op(aten.view.default, aten.reshape.default)
def view(w: Writer, call: Call) -> Value:
    given = call.args["size"] if "size" in call.args else call.args["shape"]
    return reshaped(w, call, given)


def _one_unknown(node: fx.Node) -> str | None:
    unknown = sum(not isinstance(size, int) for size in shape(node))
    return "more than one size is unknown" if unknown > 1 and not _keeps_lead(node) else None


def _keeps_lead(node: fx.Node) -> bool:
    """Whether only sizes that stay in their place are symbolic."""
    old, new = shape(node.args[0]), shape(node)
    return all(
        isinstance(size, int) or (place < len(old) and old[place] == size) for place, size in enumerate(new)
    )


@lowerings.op(aten.flatten.using_ints, aten.unflatten.int, check=_one_unknown)
def regroup(w: Writer, call: Call) -> Value:
    return reshaped(w, call, None)


def reshaped(w: Writer, call: Call, given: Sequence[Any] | None) -> Value:
    """Other sizes of the same numbers. The rows of a flattened image wait for a reader that needs their order."""
    x, sizes = call.value("self"), call.sizes
    if sizes == x.sizes:
        return x
    if x.stored is not None:
        return constant_value(x.stored.reshape([int(size) for size in sizes]), call.name, x.qparams)
    unknown = sum(not isinstance(size, int) for size in sizes)
    if unknown > 1:
        return held(_reshaped_by_sizes(w, call, given), sizes)

    if x.forms and (form := regrouped_form(x.sizes, sizes, x.preferred())) is not None:
        tensor = read(w, x, x.preferred())
        return held(reshape(w, tensor, in_form(sizes, form), call.name), sizes, form)

    def make(form: Form) -> Tensor:
        source = same_memory(x)
        return reshape(w, read(w, x) if source is None else source, sizes, call.name)

    rows = len(sizes) == 2 and x.rank > 2 and sizes[0] == x.sizes[0]
    if not rows:
        return held(make(natural(len(sizes))), sizes)
    return Value(sizes, x.dtype, x.qparams, call.name, make=make, flattened=x)


def _reshaped_by_sizes(w: Writer, call: Call, given: Sequence[Any] | None) -> Tensor:
    """Several symbolic sizes: the shape is put together at run time."""
    x, sizes = call.value("self"), call.sizes
    tensor = read(w, x)
    if given is None:
        given = [_size_like(w, x, place) if isinstance(size, str) else size for place, size in enumerate(sizes)]
    parts = [size_tensor(w, size) for size in given]
    target = w.op("CONCATENATION", parts, (len(sizes),), f"{call.name}/shape", axis=0)
    return w.op("RESHAPE", [tensor, target], sizes, call.name, dtype=tensor.dtype, qparams=tensor.qparams)


def _size_like(w: Writer, x: Value, axis: int) -> Value:
    form = x.preferred()
    place = form.index(axis)
    sizes = w.op("SHAPE", [read(w, x, form)], (x.rank,), dtype=torch.int32, outType=2)
    operands = [sizes, w.ints([place]), w.ints([place + 1]), w.ints([1])]
    return held(w.op("STRIDED_SLICE", operands, (1,)), (1,))


@lowerings.op(
    aten.contiguous.default,
    aten.clone.default,
    aten.alias.default,
    aten.detach.default,
    aten.dropout.default,
    aten.lift_fresh_copy.default,
)
def identity(w: Writer, call: Call) -> Value:
    found = next(iter(call.args.values()))
    assert isinstance(found, Value)
    return found


@lowerings.op(aten.permute.default)
def permute(w: Writer, call: Call) -> Value:
    x = call.value("self")
    return permuted(w, x, [axis % x.rank for axis in call.args["dims"]], call.sizes)


@lowerings.op(aten.transpose.int, aten.t.default)
def transpose(w: Writer, call: Call) -> Value:
    x = call.value("self")
    axes = list(range(x.rank))
    if x.rank > 1:
        first, second = call.args.get("dim0", 0) % x.rank, call.args.get("dim1", 1) % x.rank
        axes[first], axes[second] = axes[second], axes[first]
    return permuted(w, x, axes, call.sizes)


def permuted(w: Writer, x: Value, axes: Sequence[int], sizes: Sequence[Size]) -> Value:
    """Nothing is written: the same tensors are other forms of the result."""
    if x.stored is not None:
        return constant_value(x.stored.permute(list(axes)), x.name, x.qparams)
    if not x.forms:
        read(w, x, x.preferred())
    forms = {tuple(axes.index(axis) for axis in form): tensor for form, tensor in x.forms.items()}
    return Value(tuple(sizes), x.dtype, x.qparams, x.name, forms)


@lowerings.op(aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
def resized(w: Writer, call: Call) -> Value:
    """A reshape; where several sizes are symbolic, an operator that names the axes instead."""
    x, sizes = call.value("self"), call.sizes
    if x.stored is not None:
        return constant_value(x.stored.reshape([int(size) for size in sizes]), call.name, x.qparams)
    if sum(not isinstance(size, int) for size in sizes) <= 1:
        source = same_memory(x)
        return held(reshape(w, read(w, x) if source is None else source, sizes, call.name), sizes)
    tensor = read(w, x)
    if len(sizes) > x.rank:
        axis = w.ints([call.args["dim"] % len(sizes)])
        return held(w.op("EXPAND_DIMS", [tensor, axis], sizes, call.name, qparams=tensor.qparams), sizes)
    given = call.args.get("dim", list(range(x.rank)))
    axes = [axis % x.rank for axis in ([given] if isinstance(given, int) else given)]
    gone = [axis for axis in axes if x.sizes[axis] == 1]
    made = w.op("SQUEEZE", [tensor], sizes, call.name, qparams=tensor.qparams, squeezeDims=gone)
    return held(made, sizes)


def _static_bounds(node: fx.Node) -> str | None:
    symbolic = any(isinstance(value, fx.Node) for value in list(node.args)[1:])
    return "a bound is symbolic" if symbolic else None


@lowerings.op(aten.slice.Tensor, check=_static_bounds)
def slice_(w: Writer, call: Call) -> Value:
    x, args = call.value("self"), call.args
    start = 0 if args["start"] is None else args["start"]
    end = 2**31 - 1 if args["end"] is None else min(args["end"], 2**31 - 1)
    return sliced(w, x, args["dim"] % x.rank, start, end, args["step"], call.sizes, call.name)


def sliced(
    w: Writer, x: Value, axis: int, start: int, end: int, step: int, sizes: Sequence[Size], name: str | None
) -> Value:
    """Elements `start`, `start + step`, … before `end` of one axis, in whatever form there is."""
    if tuple(sizes) == x.sizes:
        return x
    if x.stored is not None:
        stored = torch.ops.aten.slice.Tensor(x.stored, axis, start, end, step)
        return constant_value(stored, name or x.name, x.qparams)
    form = x.preferred()
    tensor = read(w, x, form)
    place = form.index(axis)
    vectors = [[fill] * x.rank for fill in (0, 0, 1)]
    size = x.sizes[axis]
    if isinstance(size, int):
        start, end = (min(max(bound + size if bound < 0 else bound, 0), size) for bound in (start, end))
    vectors[0][place], vectors[1][place], vectors[2][place] = start, end, step
    others = sum(1 << other for other in range(x.rank) if other != place)
    open_end = others | (1 << place if end >= 2**31 - 1 else 0)
    operands = [tensor, *(w.ints(vector) for vector in vectors)]
    options = {"beginMask": others, "endMask": open_end}
    shape_out = in_form(sizes, form)
    made = w.op("STRIDED_SLICE", operands, shape_out, name, dtype=tensor.dtype, qparams=tensor.qparams, **options)
    return held(made, sizes, form)


def _known_index(node: fx.Node) -> str | None:
    return None if isinstance(bound_args(node)["index"], int) else "the index is symbolic"


@lowerings.op(aten.select.int, check=_known_index)
def select(w: Writer, call: Call) -> Value:
    return selected(w, call.value("self"), call.args["dim"], call.args["index"], call.name)


def selected(w: Writer, x: Value, dim: int, index: int, name: str) -> Value:
    """One element of an axis, which is then gone."""
    axis = dim % x.rank
    size = x.sizes[axis]
    position = index + size if index < 0 and isinstance(size, int) else index
    sizes = (*x.sizes[:axis], 1, *x.sizes[axis + 1 :])
    one = sliced(w, x, axis, position, position + 1, 1, sizes, None)
    if one.stored is not None:
        return constant_value(one.stored.squeeze(axis), name, x.qparams)
    form = one.preferred()
    left = tuple(place - (place > axis) for place in form if place != axis)
    after = (*x.sizes[:axis], *x.sizes[axis + 1 :])
    wanted, tensor = in_form(after, left), read(w, one, form)
    if sum(not isinstance(size, int) for size in wanted) <= 1:
        return held(reshape(w, tensor, wanted, name), after, left)
    gone = [form.index(axis)]
    return held(w.op("SQUEEZE", [tensor], wanted, name, qparams=tensor.qparams, squeezeDims=gone), after, left)


def _tiled_sizes(node: fx.Node) -> str | None:
    old, new = shape(node.args[0]), shape(node)
    kept = old if len(old) == len(new) else (1,) * (len(new) - len(old)) + old
    grown = any(isinstance(size, str) and size != before for size, before in zip(new, kept, strict=True))
    return "an axis is repeated a symbolic number of times" if grown else None


@lowerings.op(aten.expand.default, aten.expand_as.default, aten.repeat.default, check=_tiled_sizes)
def tile(w: Writer, call: Call) -> Value:
    x, sizes = call.value("self"), call.sizes
    form = x.preferred() if x.rank == len(sizes) else natural(len(sizes))
    tensor = aligned(w, x, form)
    if tensor.rank < len(sizes):
        tensor = reshape(w, tensor, (1,) * (len(sizes) - tensor.rank) + tensor.shape)
    wanted = in_form(sizes, form)
    repeats = [
        int(new) // int(old) if isinstance(new, int) and isinstance(old, int) else 1
        for new, old in zip(wanted, tensor.shape, strict=True)
    ]
    if set(repeats) <= {1}:
        return held(tensor, sizes, form)
    operands = [tensor, w.ints(repeats)]
    made = w.op("TILE", operands, wanted, call.name, dtype=tensor.dtype, qparams=tensor.qparams)
    return call.result(made, form)


def split_sizes(node: fx.Node) -> list[int]:
    """Sizes of the pieces of a split or chunk, from the recorded shape of each."""
    axis = bound_args(node)["dim"]
    return [int(piece.shape[axis]) for piece in node.meta["val"]]


def _static_pieces(node: fx.Node) -> str | None:
    axis = shape(node.args[0])[bound_args(node)["dim"]]
    return None if isinstance(axis, int) else "the split axis has a symbolic size"


@lowerings.op(aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default, check=_static_pieces)
def split(w: Writer, call: Call) -> tuple[Value, ...]:
    """A slice for each piece: XNNPACK runs these for any sizes."""
    x, axis = call.value("self"), call.args["dim"] % call.value("self").rank
    pieces, start = [], 0
    for index, size in enumerate(split_sizes(call.node)):
        sizes = (*x.sizes[:axis], size, *x.sizes[axis + 1 :])
        pieces.append(sliced(w, x, axis, start, start + size, 1, sizes, f"{call.name}/{index}"))
        start += size
    return tuple(pieces)


@lowerings.op(aten.unbind.int, check=_static_pieces)
def unbind(w: Writer, call: Call) -> tuple[Value, ...]:
    count = len(call.node.meta["val"])
    x, axis = call.value("self"), call.args["dim"]
    return tuple(selected(w, x, axis, index, f"{call.name}/{index}") for index in range(count))


@lowerings.op(aten.flip.default)
def flip(w: Writer, call: Call) -> Value:
    x = call.value("self")
    form = x.preferred()
    tensor = read(w, x, form)
    for axis in call.args["dims"]:
        tensor = w.op("REVERSE_V2", [tensor, w.ints([form.index(axis % x.rank)])], tensor.shape)
    return call.result(tensor, form)


def _fixed_turn(node: fx.Node) -> str | None:
    args = bound_args(node)
    if not args["dims"]:
        return "no axis is named"
    sizes = [shape(node.args[0])[axis] for axis in args["dims"]]
    return None if all(isinstance(size, int) for size in sizes) else "a rolled axis has a symbolic size"


@lowerings.op(aten.roll.default, check=_fixed_turn)
def roll(w: Writer, call: Call) -> Value:
    x = call.value("self")
    for shift, dim in zip(call.args["shifts"], call.args["dims"], strict=True):
        axis = dim % x.rank
        size = int(x.sizes[axis])
        cut = -shift % size
        if cut:
            x = _joined(w, [_part(w, x, axis, cut, size), _part(w, x, axis, 0, cut)], axis, x.sizes, None)
    return x


def _part(w: Writer, x: Value, axis: int, start: int, end: int) -> Value:
    sizes = (*x.sizes[:axis], end - start, *x.sizes[axis + 1 :])
    return sliced(w, x, axis, start, end, 1, sizes, None)


@lowerings.op(aten.cat.default)
def cat(w: Writer, call: Call) -> Value:
    parts, kind = call.args["tensors"], dtype(call.node)
    filled = [part for part in parts if part.rank == len(call.sizes)]
    if call.qparams is None:
        filled = [_cast(w, part, kind) for part in filled]
    return _joined(w, filled, call.args["dim"] % len(call.sizes), call.sizes, call.name, call.qparams)


def _cast(w: Writer, value: Value, kind: torch.dtype) -> Value:
    if value.dtype == kind:
        return value
    form = value.preferred()
    return held(as_kind(w, read(w, value, form), kind), value.sizes, form)


def _joined(
    w: Writer,
    parts: Sequence[Value],
    axis: int,
    sizes: Sequence[Size],
    name: str | None,
    qparams: QParams | None = None,
) -> Value:
    form = common_form(parts, len(sizes))
    tensors = [read(w, part, form) for part in parts]
    kind, qp = tensors[0].dtype, qparams or tensors[0].qparams
    wanted = in_form(sizes, form)
    made = w.op("CONCATENATION", tensors, wanted, name, dtype=kind, qparams=qp, axis=form.index(axis))
    return held(made, sizes, form)


@lowerings.op(aten.stack.default)
def stack(w: Writer, call: Call) -> Value:
    axis, kind = call.args["dim"] % len(call.sizes), dtype(call.node)
    sizes = (*call.sizes[:axis], 1, *call.sizes[axis + 1 :])
    parts = [held(reshape(w, read(w, _cast(w, part, kind)), sizes), sizes) for part in call.args["tensors"]]
    return _joined(w, parts, axis, call.sizes, call.name)
