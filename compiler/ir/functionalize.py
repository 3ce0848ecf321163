"""In-place aten calls -> their functional twins, where no alias can see the difference.

`relu_(x)` becomes `relu(x)` and every later reader of `x` reads the result. That is the whole story unless a view
of `x` exists (or `x` is a view itself): then `has_alias_risk` says so and capture lets
`ExportedProgram.run_decompositions` functionalize instead, which is right for all aliases but costs a retrace.
"""

from __future__ import annotations

import torch
from torch import fx
from torch._ops import OpOverload

from .errors import CaptureError
from .nodes import describe
from .ops import op_name


def has_alias_risk(graph: fx.Graph) -> bool:
    """Whether an in-place call writes to a tensor that a view shares, or has no functional twin."""
    for node in graph.nodes:
        if not _mutates(node):
            continue
        target = node.args[0]
        if _functional_twin(node.target) is None or not isinstance(target, fx.Node):
            return True
        if _is_view(target) or any(_is_view(user) for user in target.users):
            return True
    return False


def make_functional(graph: fx.Graph) -> None:
    """Replace every in-place call by its functional twin; call only where `has_alias_risk` is False.

    Raises:
        CaptureError: a call writes to a constant: the model keeps state between calls.
    """
    order = {node: index for index, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if not _mutates(node):
            continue
        twin = _functional_twin(node.target)
        written = node.args[0]
        assert twin is not None
        assert isinstance(written, fx.Node)
        if written.op == "get_attr":
            raise CaptureError(
                f"The model writes to its own tensor {written.target!r} at each call ({describe(node)}: "
                f"{op_name(node.target)}), and a compiled graph keeps no state. Take that state as an input and "
                "give it back as an output, or leave it out in eval mode."
            )
        node.target = twin
        for user in list(written.users):
            if order[user] > order[node]:
                user.replace_input_with(written, node)


def _mutates(node: fx.Node) -> bool:
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def _is_view(node: fx.Node) -> bool:
    """Whether the result aliases an input without writing to it."""
    if not isinstance(node.target, OpOverload) or node.target._schema.is_mutable:
        return False
    return any(result.alias_info is not None for result in node.target._schema.returns)


def _functional_twin(target: object) -> OpOverload | None:
    assert isinstance(target, OpOverload)
    name = target._schema.name.split("::")[1]
    if not name.endswith("_"):
        return None
    packet = getattr(getattr(torch.ops, target.namespace), name[:-1], None)
    return getattr(packet, target._overloadname, None) if packet is not None else None
