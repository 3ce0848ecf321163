"""Attention and einsum as matrix products.

scaled_dot_product_attention(q, k, v) = softmax(q @ kᵀ · scale + mask) @ v. A boolean mask (and the causal one,
where the lengths are fixed) puts -1e9 where attention is off: it leaves softmax exactly 0 there, as -inf would,
and keeps every value finite for calibration. A row that attends to nothing is not defined here.

einsum of two operands with one letter summed is one matrix product between permutes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, fx

from ...compiler.ir.constants import add_constant
from ...compiler.ir.nodes import describe
from ...compiler.ir.ops import aten, bound_args
from ...compiler.ir.passes import Skip
from .._rewrite import insert_call, is_same_size, shape_of, stand_in, tensor_of

MASKED = -1e9


def attention(gm: fx.GraphModule, node: fx.Node) -> fx.Node | Skip:
    bound = bound_args(node)
    query, key, value = bound["query"], bound["key"], bound["value"]
    query_shape, key_shape = shape_of(gm, query), shape_of(gm, key)
    if reason := _refusal(bound, query_shape, key_shape):
        return Skip(node.name, f"{describe(node)} keeps its one op: {reason}")
    assert query_shape is not None
    assert key_shape is not None
    rank = len(query_shape)
    scale = bound["scale"] if bound["scale"] is not None else float(query_shape[-1]) ** -0.5
    swapped = insert_call(gm, node, aten.transpose.int, (key, rank - 2, rank - 1))
    scores = insert_call(gm, node, aten.matmul.default, (query, swapped))
    scores = insert_call(gm, node, aten.mul.Tensor, (scores, scale))
    mask = bound["attn_mask"]
    if bound["is_causal"]:
        causal = torch.ones(int(query_shape[-2]), int(key_shape[-2]), dtype=torch.bool).tril()
        mask = add_constant(gm, f"{node.name}_causal_mask", causal, node)
    if mask is not None:
        scores = _masked(gm, node, scores, mask)
    weights = insert_call(gm, node, aten.softmax.int, (scores, rank - 1))
    return stand_in(gm, node, aten.matmul.default, (weights, value))


def _refusal(bound: dict, query: tuple | None, key: tuple | None) -> str | None:
    if query is None or key is None:
        return "its shapes are unknown"
    if not isinstance(query[-1], int) and bound["scale"] is None:
        return "the head size is dynamic"
    if bound["dropout_p"]:
        return "it drops weights at random"
    if bound["enable_gqa"] and not is_same_size(query[-3], key[-3]):
        return "query and key have different numbers of heads"
    if bound["is_causal"] and not (isinstance(query[-2], int) and isinstance(key[-2], int)):
        return "its mask is causal over a dynamic length"
    return None


def _masked(gm: fx.GraphModule, node: fx.Node, scores: fx.Node, mask: fx.Node) -> fx.Node:
    value = tensor_of(gm, mask)
    if value is not None and value.dtype == torch.bool:
        return insert_call(gm, node, aten.where.ScalarOther, (mask, scores, MASKED))
    return insert_call(gm, node, aten.add.Tensor, (scores, mask))


def einsum(gm: fx.GraphModule, node: fx.Node) -> fx.Node | Skip:
    """Two operands with one summed letter: permute both, multiply, permute back."""
    equation, operands = node.args[:2]
    assert isinstance(equation, str)
    found = _contraction(equation, operands)
    if isinstance(found, str):
        return Skip(node.name, f"{describe(node)} keeps einsum {equation!r}: {found}")
    left_axes, right_axes, result_axes = found
    left = _permuted(gm, node, operands[0], left_axes)  # type: ignore[index,arg-type]
    right = _permuted(gm, node, operands[1], right_axes)  # type: ignore[index,arg-type]
    if result_axes == sorted(result_axes):
        return stand_in(gm, node, aten.matmul.default, (left, right))
    product = insert_call(gm, node, aten.matmul.default, (left, right))
    return stand_in(gm, node, aten.permute.default, (product, result_axes))


def _contraction(equation: str, operands: object) -> tuple[list[int], list[int], list[int]] | str:
    """Axis orders that make `left @ right` the contraction, and that of its result; or why there are none."""
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if not arrow or "." in equation or len(terms) != 2 or len(operands) != 2:  # type: ignore[arg-type]
        return "only two operands with an explicit output are decomposed"
    left, right = terms
    if any(len(set(term)) != len(term) for term in (*terms, output)):
        return "a letter is repeated in one term"
    batch = [c for c in left if c in right and c in output]
    summed = [c for c in left if c in right and c not in output]
    rows = [c for c in left if c not in right]
    columns = [c for c in right if c not in left]
    if len(summed) != 1 or len(columns) != 1 or not rows or (batch and len(rows) != 1):
        return "it is not one matrix product per batch"
    if set(batch + rows + columns) != set(output):
        return "a letter is summed over one operand only"
    result = batch + rows + columns
    left_axes = [left.index(c) for c in batch + rows + summed]
    return left_axes, [right.index(c) for c in batch + summed + columns], [result.index(c) for c in output]


def _permuted(gm: fx.GraphModule, node: fx.Node, operand: fx.Node, axes: list[int]) -> fx.Node:
    if axes == sorted(axes):
        return operand
    value = tensor_of(gm, operand)
    fake = value.permute(axes) if isinstance(value, Tensor) else None
    return insert_call(gm, node, aten.permute.default, (operand, axes), value=fake)


RULES: Mapping[object, Callable[[fx.GraphModule, fx.Node], fx.Node | Skip | None]] = {
    aten.scaled_dot_product_attention.default: attention,
    aten.einsum.default: einsum,
}
