"""Core ATen, as a decomposed ExportedProgram holds it, back to the ops that targets and passes know."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import fx
from torch._ops import OpOverload

from ...compiler.ir.constants import add_constant, constant
from ...compiler.ir.ops import CONV_BY_SPATIAL, CONV_TRANSPOSE, OPS, aten, bound_args
from .._rewrite import insert_call, rank_of, stand_in

_TRANSPOSED = {OPS[op].spatial: op for op in CONV_TRANSPOSE}


def convolution(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """convolution.default -> conv or conv_transpose of 1, 2 or 3 spatial axes."""
    bound = bound_args(node)
    rank = rank_of(gm, bound["weight"])
    if rank is None or rank - 2 not in CONV_BY_SPATIAL:
        return None
    head = (bound["input"], bound["weight"], bound["bias"], bound["stride"], bound["padding"])
    if bound["transposed"]:
        args = (*head, bound["output_padding"], bound["groups"], bound["dilation"])
        return stand_in(gm, node, _TRANSPOSED[rank - 2], args)
    return stand_in(gm, node, CONV_BY_SPATIAL[rank - 2], (*head, bound["dilation"], bound["groups"]))


def first_result(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Item 0 of an op that also gives what only training or unpooling needs -> the op that gives it alone."""
    source, index = node.args
    if index != 0 or not isinstance(source, fx.Node) or len(source.users) != 1:
        return None
    if source.target is aten.native_dropout.default:
        dropped = source.args[0]
        return dropped if not source.args[2] and isinstance(dropped, fx.Node) else None
    make = _FIRST.get(source.target)
    if make is None:
        return None
    target, args = make(source)
    return stand_in(gm, node, target, args)


_Call = tuple[OpOverload, tuple[object, ...]]


def _batch_norm(node: fx.Node) -> _Call:
    source, gamma, beta, mean, var, momentum, eps = bound_args(node).values()
    return aten.batch_norm.default, (source, gamma, beta, mean, var, False, momentum, eps, False)


def _layer_norm(node: fx.Node) -> _Call:
    return aten.layer_norm.default, (*bound_args(node).values(), False)


def _group_norm(node: fx.Node) -> _Call:
    bound = bound_args(node)
    args = (bound["input"], bound["group"], bound["weight"], bound["bias"], bound["eps"], False)
    return aten.group_norm.default, args


def _max_pool(target: OpOverload) -> Callable[[fx.Node], _Call]:
    return lambda node: (target, tuple(bound_args(node).values()))


_FIRST: Mapping[object, Callable[[fx.Node], _Call]] = {
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.native_group_norm.default: _group_norm,
    aten.max_pool1d_with_indices.default: _max_pool(aten.max_pool1d.default),
    aten.max_pool2d_with_indices.default: _max_pool(aten.max_pool2d.default),
    aten.max_pool3d_with_indices.default: _max_pool(aten.max_pool3d.default),
}


def product(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """mm, bmm, matmul -> linear where the right factor is a constant matrix, else matmul."""
    left, right = node.args
    assert isinstance(left, fx.Node)
    weight = _linear_weight(gm, node, right) if left.op != "get_attr" else None
    if weight is not None:
        return stand_in(gm, node, aten.linear.default, (left, weight, None))
    if node.target is aten.matmul.default:
        return None
    return stand_in(gm, node, aten.matmul.default, (left, right))


def product_plus(gm: fx.GraphModule, node: fx.Node) -> fx.Node:
    """addmm, baddbmm: beta·b + alpha·(x @ y) -> linear where y is a constant matrix and b a constant vector,
    else a product and an add."""
    bound = bound_args(node)
    addend, beta, alpha = bound["self"], bound["beta"], bound["alpha"]
    left, right = [value for name, value in bound.items() if name in ("mat1", "mat2", "batch1", "batch2")]
    vector = constant(gm, addend)
    if beta == alpha == 1 and vector is not None and vector.ndim == 1:
        weight = _linear_weight(gm, node, right)
        if weight is not None:
            return stand_in(gm, node, aten.linear.default, (left, weight, addend))
    value = node.meta.get("val")
    result = insert_call(gm, node, aten.matmul.default, (left, right), value=value)
    if alpha != 1:
        result = insert_call(gm, node, aten.mul.Tensor, (result, alpha), value=value)
    if beta != 1:
        addend = insert_call(gm, node, aten.mul.Tensor, (addend, beta), value=addend.meta.get("val"))
    return stand_in(gm, node, aten.add.Tensor, (result, addend))


def _linear_weight(gm: fx.GraphModule, node: fx.Node, right: object) -> fx.Node | None:
    """The constant [out, in] whose transpose is the right factor of a product, made if need be."""
    if not isinstance(right, fx.Node):
        return None
    if _is_matrix_transpose(right) and (matrix := constant(gm, right.args[0])) is not None:
        return right.args[0] if matrix.ndim == 2 else None  # type: ignore[return-value]
    matrix = constant(gm, right)
    if matrix is None or matrix.ndim != 2:
        return None
    return add_constant(gm, f"{right.target}_transpose", matrix.t().contiguous(), node)


def _is_matrix_transpose(node: fx.Node) -> bool:
    if node.target is aten.permute.default:
        return list(node.args[1]) == [1, 0]  # type: ignore[arg-type]
    if node.target is aten.transpose.int:
        return set(node.args[1:]) in ({0, 1}, {-1, -2})
    return node.target in (aten.t.default, aten.numpy_T.default, aten.mT.default)


def renamed(target: OpOverload, count: int) -> Callable[[fx.GraphModule, fx.Node], fx.Node]:
    """A rule for an op with a public twin that takes its first `count` arguments."""
    return lambda gm, node: stand_in(gm, node, target, node.args[:count])


RULES: Mapping[object, Callable[[fx.GraphModule, fx.Node], fx.Node | None]] = {
    aten.convolution.default: convolution,
    aten.mm.default: product,
    aten.bmm.default: product,
    aten.matmul.default: product,
    aten.addmm.default: product_plus,
    aten.baddbmm.default: product_plus,
    aten._softmax.default: renamed(aten.softmax.int, 2),
    aten._log_softmax.default: renamed(aten.log_softmax.int, 2),
    aten._adaptive_avg_pool2d.default: renamed(aten.adaptive_avg_pool2d.default, 2),
    aten._adaptive_avg_pool3d.default: renamed(aten.adaptive_avg_pool3d.default, 2),
}
