"""Calls that read only constants, computed at compile time."""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from ...compiler.ir.constants import add_constant, constant
from ...compiler.ir.ops import op_name
from .._rewrite import replace

# A result may be this many elements larger than what it is computed from (an arange, a causal mask).
_MAX_GROWTH = 1 << 20


def fold(gm: fx.GraphModule) -> int:
    """Replace every call whose tensors are all constants by its result; the number of calls replaced."""
    changes = 0
    for node in list(gm.graph.nodes):
        result = _result(gm, node) if node.users else None
        if result is not None:
            replace(gm, node, add_constant(gm, _name(node), result, node))
            changes += 1
    gm.graph.eliminate_dead_code()
    return changes


def _result(gm: fx.GraphModule, node: fx.Node) -> Tensor | None:
    target = node.target
    if node.op != "call_function" or not isinstance(target, OpOverload):
        return None
    if torch.Tag.nondeterministic_seeded in target.tags or len(target._schema.returns) != 1:
        return None
    if any(source.op != "get_attr" for source in node.all_input_nodes):
        return None
    inputs = {source: constant(gm, source) for source in node.all_input_nodes}
    allowed = _MAX_GROWTH + sum(tensor.numel() for tensor in inputs.values() if tensor is not None)
    args, kwargs = fx.map_arg((node.args, node.kwargs), inputs.__getitem__)
    expected = node.meta.get("val")
    if isinstance(expected, Tensor) and expected.numel() > allowed:
        return None
    with torch.no_grad():
        result = target(*args, **kwargs)
    if not isinstance(result, Tensor) or result.numel() > allowed:
        return None
    return result.clone(memory_format=torch.contiguous_format)


def _name(node: fx.Node) -> str:
    """`fc.weight_transpose` for a call on one constant, else named after the node."""
    if len(node.all_input_nodes) == 1:
        return f"{node.all_input_nodes[0].target}_{op_name(node.target).split('.')[0]}"
    return f"constant_{node.name}"
