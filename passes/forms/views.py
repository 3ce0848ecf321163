"""Views, copies and casts: drop those that change nothing, one spelling for the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import fx

from ...compiler.ir.ops import aten, bound_args
from .._rewrite import is_same_shape, is_same_size, rank_of, shape_of, stand_in, tensor_of

_INT64_MAX = 2**63 - 1


def drop(gm: fx.GraphModule, node: fx.Node) -> fx.Node:
    """The first argument, for an op that gives its input unchanged."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return source


def drop_in_eval(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    return None if bound_args(node)["train"] else drop(gm, node)


def drop_if_same_shape(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    same = is_same_shape(shape_of(gm, node.args[0]), shape_of(gm, node))
    return drop(gm, node) if same else None


def cast(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """A cast to the dtype that the value has is dropped; any other is `to.dtype(x, dtype)`."""
    source, result = tensor_of(gm, node.args[0]), tensor_of(gm, node)
    if source is None or result is None:
        return None
    if source.dtype == result.dtype:
        return drop(gm, node)
    args = (node.args[0], result.dtype)
    if node.target is aten.to.dtype and node.args == args and not node.kwargs:
        return None
    return stand_in(gm, node, aten.to.dtype, args)


def reshape(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """view, _unsafe_view, reshape -> reshape to numbers, -1 for the dynamic size; dropped if nothing changes."""
    before, after = shape_of(gm, node.args[0]), shape_of(gm, node)
    if is_same_shape(before, after):
        return drop(gm, node)
    args = (node.args[0], _sizes(after, list(node.args[1])))  # type: ignore[arg-type]
    if node.target is aten.reshape.default and node.args == args:
        return None
    return stand_in(gm, node, aten.reshape.default, args)


def _sizes(shape: tuple[int | torch.SymInt, ...] | None, given: list[object]) -> list[object]:
    """Target sizes without shape arithmetic where at most one of them is dynamic."""
    if shape is not None and sum(not isinstance(size, int) for size in shape) <= 1:
        return [size if isinstance(size, int) else -1 for size in shape]
    dynamic = [index for index, size in enumerate(given) if isinstance(size, fx.Node)]
    if len(dynamic) == 1 and -1 not in given:
        given[dynamic[0]] = -1
    return given


def expand(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Sizes that stay become -1; an expand that keeps all of them is dropped."""
    before, after = shape_of(gm, node.args[0]), shape_of(gm, node)
    if before is None or after is None:
        return None
    if is_same_shape(before, after):
        return drop(gm, node)
    sizes = list(node.args[1])  # type: ignore[arg-type]
    added = len(after) - len(before)
    for axis, size in enumerate(after):
        if axis >= added and is_same_size(before[axis - added], size):
            sizes[axis] = -1
        elif isinstance(size, int):
            sizes[axis] = size
    if node.args == (node.args[0], sizes):
        return None
    return stand_in(gm, node, aten.expand.default, (node.args[0], sizes))


def flatten(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """`flatten(x, start)` where it ends at the last axis; dropped where it flattens one axis."""
    if (same := drop_if_same_shape(gm, node)) is not None:
        return same
    rank = rank_of(gm, node.args[0])
    if len(node.args) == 3 and rank is not None and node.args[2] in (-1, rank - 1):
        node.args = node.args[:2]
        return node
    return None


def slice_(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """A slice of the whole axis is dropped."""
    bound = bound_args(node)
    if bound["start"] not in (None, 0) or bound["step"] != 1:
        return None
    if bound["end"] in (None, _INT64_MAX):
        return drop(gm, node)
    return drop_if_same_shape(gm, node)


def narrow(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """narrow from a number -> slice."""
    source, axis, start, length = node.args
    if not (isinstance(start, int) and isinstance(length, int)) or start < 0:
        return None
    return stand_in(gm, node, aten.slice.Tensor, (source, axis, start, start + length))


def transpose(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    source, first, second = node.args
    if first == second:
        return drop(gm, node)
    if isinstance(first, int) and isinstance(second, int) and 0 <= second < first:
        node.args = (source, second, first)
        return node
    return None


def transpose_matrix(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """t, numpy_T of a matrix and mT -> transpose of its last two axes."""
    rank = rank_of(gm, node.args[0])
    if rank is None or rank < 2 or (rank > 2 and node.target is not aten.mT.default):
        return None
    return stand_in(gm, node, aten.transpose.int, (node.args[0], rank - 2, rank - 1))


def permute(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    axes = list(node.args[1])  # type: ignore[arg-type]
    return drop(gm, node) if axes == list(range(len(axes))) else None


def concat(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """A concat of one tensor is that tensor."""
    tensors = node.args[0]
    if isinstance(tensors, (list, tuple)) and len(tensors) == 1 and isinstance(tensors[0], fx.Node):
        return tensors[0]
    return None


def split(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """chunk and split by size -> split_with_sizes, where the axis has a fixed size."""
    axis, shape = bound_args(node)["dim"], shape_of(gm, node.args[0])
    pieces = node.meta.get("val")
    if shape is None or pieces is None or not isinstance(shape[axis], int):
        return None
    sizes = [piece.shape[axis] for piece in pieces]
    return stand_in(gm, node, aten.split_with_sizes.default, (node.args[0], sizes, axis))


RULES: Mapping[object, Callable[[fx.GraphModule, fx.Node], fx.Node | None]] = {
    aten.dropout.default: drop_in_eval,
    aten.feature_dropout.default: drop_in_eval,
    aten.alpha_dropout.default: drop_in_eval,
    aten.feature_alpha_dropout.default: drop_in_eval,
    aten.clone.default: drop,
    aten.contiguous.default: drop,
    aten.detach.default: drop,
    aten.alias.default: drop,
    aten.lift_fresh_copy.default: drop,
    aten.to.dtype: cast,
    aten.to.dtype_layout: cast,
    aten.to.device: cast,
    aten.to.other: cast,
    aten.type_as.default: cast,
    aten._to_copy.default: cast,
    aten.view.default: reshape,
    aten._unsafe_view.default: reshape,
    aten.reshape.default: reshape,
    aten.expand.default: expand,
    aten.flatten.using_ints: flatten,
    aten.slice.Tensor: slice_,
    aten.narrow.default: narrow,
    aten.transpose.int: transpose,
    aten.t.default: transpose_matrix,
    aten.numpy_T.default: transpose_matrix,
    aten.mT.default: transpose_matrix,
    aten.permute.default: permute,
    aten.cat.default: concat,
    aten.chunk.default: split,
    aten.split.Tensor: split,
}
