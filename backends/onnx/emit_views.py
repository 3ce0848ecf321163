"""Lowerings of ops that move, select or make elements; shapes may hold symbolic sizes.

A symbolic size is an int64 [1] tensor, computed by `Shape` only where a static shape cannot say the same:
in `Reshape` a size equal to the input's own at the same place is 0, one unknown left is -1.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ...compiler.ir.ops import aten, bound_args
from ...compiler.ir.sizes import dtype, shape
from .table import Call, Value, lowerings
from .writer import DTYPES, Writer

_SIZE_ARITHMETIC = {
    operator.add: "Add",
    operator.sub: "Sub",
    operator.mul: "Mul",
    operator.floordiv: "Div",
    operator.mod: "Mod",
}


@lowerings.op(aten.sym_size.int)
def symbolic_size(w: Writer, call: Call) -> str:
    axis = call.args["dim"] % call.tensor("self").rank
    return w.op("Shape", [call.tensor("self").name], call.name, start=axis, end=axis + 1)


@lowerings.op(*_SIZE_ARITHMETIC)
def size_arithmetic(w: Writer, call: Call) -> str:
    return w.op(_SIZE_ARITHMETIC[call.node.target], sizes_of(w, call.args.values()), call.name)  # type: ignore[index]


@lowerings.op(aten.view.default, aten.reshape.default)
def reshape(w: Writer, call: Call) -> str:
    sizes = call.args["size"] if "size" in call.args else call.args["shape"]
    return w.op(
        "Reshape", [call.tensor("self").name, _target(w, call.tensor("self"), sizes, call.node)], call.name
    )


def _regrouped(node: fx.Node) -> list[int]:
    """The shape operand of Reshape: one symbolic size is -1; of several, those that stay in their place are 0."""
    old, new = shape(node.args[0]), shape(node)
    if sum(isinstance(size, str) for size in new) == 1:
        return [size if isinstance(size, int) else -1 for size in new]
    kept = [place < len(old) and old[place] == size for place, size in enumerate(new)]
    return [size if isinstance(size, int) else 0 if same else -1 for size, same in zip(new, kept, strict=True)]


def _one_unknown(node: fx.Node) -> str | None:
    return "more than one size is unknown" if _regrouped(node).count(-1) > 1 else None


@lowerings.op(aten.flatten.using_ints, aten.unflatten.int, check=_one_unknown)
def regroup(w: Writer, call: Call) -> str:
    return w.op("Reshape", [call.tensor("self").name, w.ints(_regrouped(call.node))], call.name)


@lowerings.op(
    aten.contiguous.default,
    aten.clone.default,
    aten.alias.default,
    aten.detach.default,
    aten.dropout.default,
    aten.lift_fresh_copy.default,
)
def identity(w: Writer, call: Call) -> str:
    return w.op("Identity", [next(iter(call.args.values())).name], call.name)


@lowerings.op(aten.permute.default)
def permute(w: Writer, call: Call) -> str:
    x = call.tensor("self")
    return w.op("Transpose", [x.name], call.name, perm=[axis % x.rank for axis in call.args["dims"]])


@lowerings.op(aten.transpose.int, aten.t.default)
def transpose(w: Writer, call: Call) -> str:
    x = call.tensor("self")
    axes = list(range(x.rank))
    first, second = call.args.get("dim0", 0) % x.rank, call.args.get("dim1", 1) % x.rank
    axes[first], axes[second] = axes[second], axes[first]
    return w.op("Transpose", [x.name], call.name, perm=axes)


@lowerings.op(aten.unsqueeze.default)
def unsqueeze(w: Writer, call: Call) -> str:
    return w.op("Unsqueeze", [call.tensor("self").name, w.ints([call.args["dim"]])], call.name)


@lowerings.op(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
def squeeze(w: Writer, call: Call) -> str:
    x = call.tensor("self")
    wanted = call.args.get("dim", list(range(x.rank)))
    axes = [axis % x.rank for axis in ([wanted] if isinstance(wanted, int) else wanted)]
    return w.op("Squeeze", [x.name, w.ints([axis for axis in axes if x.shape[axis] == 1])], call.name)


@lowerings.op(aten.slice.Tensor)
def slice_(w: Writer, call: Call) -> str:
    start, end = (call.args[key] for key in ("start", "end"))
    bounds = [w_size(w, 0 if start is None else start), w_size(w, 2**63 - 1 if end is None else end)]
    axis, step = w.ints([call.args["dim"]]), w.ints([call.args["step"]])
    return w.op("Slice", [call.tensor("self").name, *bounds, axis, step], call.name)


@lowerings.op(aten.select.int)
def select(w: Writer, call: Call) -> str:
    index = call.args["index"]
    position = w.scalar(index, torch.int64) if isinstance(index, int) else w.op("Squeeze", [index.name])
    return w.op("Gather", [call.tensor("self").name, position], call.name, axis=call.args["dim"])


@lowerings.op(aten.expand.default)
def expand(w: Writer, call: Call) -> str:
    """A size of -1, or one that the input has already, is 1: `Expand` keeps the input's own size then."""
    x = call.tensor("self")
    old = (None,) * (len(call.args["size"]) - x.rank) + x.shape
    sizes: list[Any] = []
    for new, before, size in zip(shape(call.node), old, call.args["size"], strict=True):
        sizes.append(1 if size == -1 or new == before else size)
    return w.op("Expand", [x.name, _sizes(w, sizes)], call.name)


@lowerings.op(aten.expand_as.default)
def expand_as(w: Writer, call: Call) -> str:
    target = w.op("Shape", [call.tensor("other").name])
    return w.op("Expand", [call.tensor("self").name, target], call.name)


@lowerings.op(aten.repeat.default)
def repeat(w: Writer, call: Call) -> str:
    x, repeats = call.tensor("self"), call.args["repeats"]
    source = x.name
    if len(repeats) > x.rank:
        source = w.op("Unsqueeze", [source, w.ints(list(range(len(repeats) - x.rank)))])
    return w.op("Tile", [source, _sizes(w, repeats)], call.name)


def split_sizes(node: fx.Node) -> list[int]:
    """Sizes of the pieces of a split or chunk, from the recorded shape of each."""
    axis = bound_args(node)["dim"]
    sizes = [piece.shape[axis] for piece in node.meta["val"]]
    return [int(size) for size in sizes]


def _static_pieces(node: fx.Node) -> str | None:
    axis = shape(node.args[0])[bound_args(node)["dim"]]
    return None if isinstance(axis, int) else "the split axis has a symbolic size"


@lowerings.op(aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default, check=_static_pieces)
def split(w: Writer, call: Call) -> tuple[str, ...]:
    sizes = split_sizes(call.node)
    names = [f"{call.name}/{index}" for index in range(len(sizes))]
    inputs = [call.tensor("self").name, w.ints(sizes)]
    return w.multi("Split", inputs, names, axis=call.args["dim"])


@lowerings.op(aten.unbind.int, check=_static_pieces)
def unbind(w: Writer, call: Call) -> tuple[str, ...]:
    source, axis = call.tensor("self").name, call.args["dim"]
    pieces = range(len(call.node.meta["val"]))
    positions = [w.scalar(piece, torch.int64) for piece in pieces]
    return tuple(w.op("Gather", [source, positions[i]], f"{call.name}/{i}", axis=axis) for i in pieces)


@lowerings.op(aten.flip.default)
def flip(w: Writer, call: Call) -> str:
    axes = call.args["dims"]
    bounds = [w.ints([value] * len(axes)) for value in (-1, -(2**63))]
    return w.op("Slice", [call.tensor("self").name, *bounds, w.ints(axes), w.ints([-1] * len(axes))], call.name)


def _fixed_turn(node: fx.Node) -> str | None:
    args = bound_args(node)
    if not args["dims"]:
        return "no axis is named"
    sizes = [shape(node.args[0])[axis] for axis in args["dims"]]
    return None if all(isinstance(size, int) for size in sizes) else "a rolled axis has a symbolic size"


@lowerings.op(aten.roll.default, check=_fixed_turn)
def roll(w: Writer, call: Call) -> str:
    x = call.tensor("self")
    rolled = x.name
    for shift, axis in zip(call.args["shifts"], call.args["dims"], strict=True):
        cut = -shift % int(x.shape[axis])
        first = w.op("Slice", [rolled, w.ints([0]), w.ints([cut]), w.ints([axis])])
        rest = w.op("Slice", [rolled, w.ints([cut]), w.ints([2**63 - 1]), w.ints([axis])])
        rolled = w.op("Concat", [rest, first], axis=axis)
    return w.op("Identity", [rolled], call.name)


def _one_index(node: fx.Node) -> str | None:
    indices = bound_args(node)["indices"]
    given = [index for index in indices if index is not None]
    if len(given) != 1:
        return "more than one axis is indexed at once"
    return None if dtype(given[0]) in (torch.int64, torch.int32) else "the index is a mask"


@lowerings.op(aten.index.Tensor, check=_one_index)
def index(w: Writer, call: Call) -> str:
    axis, chosen = next((axis, value) for axis, value in enumerate(call.args["indices"]) if value is not None)
    return w.op("Gather", [call.tensor("self").name, chosen.name], call.name, axis=axis)


@lowerings.op(aten.cat.default)
def cat(w: Writer, call: Call) -> str:
    kind = dtype(call.node)
    parts = [
        part.name if part.dtype == kind else w.op("Cast", [part.name], to=DTYPES[kind])
        for part in call.args["tensors"]
    ]
    return w.op("Concat", parts, call.name, axis=call.args["dim"])


@lowerings.op(aten.stack.default)
def stack(w: Writer, call: Call) -> str:
    axis = w.ints([call.args["dim"]])
    parts = [w.op("Unsqueeze", [part.name, axis]) for part in call.args["tensors"]]
    return w.op("Concat", parts, call.name, axis=call.args["dim"])


@lowerings.op(aten.pixel_shuffle.default)
def pixel_shuffle(w: Writer, call: Call) -> str:
    factor = call.args["upscale_factor"]
    return w.op("DepthToSpace", [call.tensor("self").name], call.name, blocksize=factor, mode="CRD")


@lowerings.op(aten.tril.default, aten.triu.default)
def triangle(w: Writer, call: Call) -> str:
    offset = w.scalar(call.args["diagonal"], torch.int64)
    upper = int(call.node.target is aten.triu.default)
    return w.op("Trilu", [call.tensor("self").name, offset], call.name, upper=upper)


@lowerings.op(aten.embedding.default)
def embedding(w: Writer, call: Call) -> str:
    return w.op("Gather", [call.tensor("weight").name, call.tensor("indices").name], call.name)


@lowerings.op(aten.index_select.default)
def index_select(w: Writer, call: Call) -> str:
    operands = [call.tensor("self").name, call.tensor("index").name]
    return w.op("Gather", operands, call.name, axis=call.args["dim"])


@lowerings.op(aten.gather.default)
def gather(w: Writer, call: Call) -> str:
    operands = [call.tensor("self").name, call.tensor("index").name]
    return w.op("GatherElements", operands, call.name, axis=call.args["dim"])


@lowerings.op(aten.cumsum.default)
def cumsum(w: Writer, call: Call) -> str:
    x = call.tensor("self")
    source = x.name if x.dtype == dtype(call.node) else w.op("Cast", [x.name], to=DTYPES[dtype(call.node)])
    return w.op("CumSum", [source, w.scalar(call.args["dim"], torch.int64)], call.name)


@lowerings.op(aten.arange.default, aten.arange.start, aten.arange.start_step)
def arange(w: Writer, call: Call) -> str:
    kind = dtype(call.node)
    ends = [call.args.get("start", 0), call.args["end"], call.args.get("step", 1)]
    if not any(isinstance(end, Value) for end in ends):
        return w.initializer(call.name, torch.arange(*ends, dtype=kind))
    bounds = []
    for end in ends:
        if isinstance(end, Value):
            cast = w.op("Cast", [end.name], to=DTYPES[kind])
            bounds.append(w.op("Squeeze", [cast]))
        else:
            bounds.append(w.scalar(end, kind))
    return w.op("Range", bounds, call.name)


_FILLS: dict[Any, float] = {
    aten.zeros.default: 0,
    aten.ones.default: 1,
    aten.new_zeros.default: 0,
    aten.new_ones.default: 1,
}


@lowerings.op(*_FILLS, aten.full.default, aten.new_full.default)
def fill(w: Writer, call: Call) -> str:
    fixed = _FILLS.get(call.node.target)
    value = call.args["fill_value"] if fixed is None else fixed
    return _filled(w, call, _sizes(w, call.args["size"]), value)


@lowerings.op(aten.zeros_like.default, aten.ones_like.default, aten.full_like.default)
def fill_like(w: Writer, call: Call) -> str:
    value = {aten.zeros_like.default: 0, aten.ones_like.default: 1}.get(call.node.target)  # type: ignore[call-overload]
    sizes = w.op("Shape", [call.tensor("self").name])
    return _filled(w, call, sizes, call.args["fill_value"] if value is None else value)


@lowerings.op(aten.scalar_tensor.default)
def scalar_tensor(w: Writer, call: Call) -> str:
    return w.op("Identity", [w.scalar(call.args["s"], dtype(call.node))], call.name)


def w_size(w: Writer, size: int | Value) -> str:
    """A size as an int64 [1] tensor."""
    return size.name if isinstance(size, Value) else w.ints([size])


def sizes_of(w: Writer, sizes: Any) -> list[str]:
    return [w_size(w, size) for size in sizes]


def _filled(w: Writer, call: Call, sizes: str, value: float) -> str:
    constant = w.scalar(value, dtype(call.node))
    return w.op("Expand", [constant, sizes], call.name)


def _sizes(w: Writer, sizes: Sequence[int | Value]) -> str:
    """A shape tensor; constant where no size is symbolic."""
    if all(isinstance(size, int) for size in sizes):
        return w.ints([int(size) for size in sizes])  # type: ignore[arg-type]
    return w.op("Concat", sizes_of(w, sizes), axis=0)


def _target(w: Writer, x: Value, sizes: Sequence[int | Value], node: fx.Node) -> str:
    """The shape operand of Reshape; constant where 0 and one -1 can stand for the symbolic sizes."""
    fixed: list[int | None] = []
    for place, size in enumerate(sizes):
        if isinstance(size, int):
            fixed.append(size)
        elif place < x.rank and x.shape[place] == shape(node)[place]:
            fixed.append(0)
        else:
            fixed.append(None)
    unknown = sum(size is None or size == -1 for size in fixed)
    if unknown <= 1:
        return w.ints([-1 if size is None else size for size in fixed])
    return _sizes(w, sizes)
