"""A stable text form of a graph, for tests, `inspect` and error messages.

Nodes are numbered in order, constants are named where they are used:

    %0 = input x
    %1 = conv2d.default(%0, @conv.weight, @conv.bias, [1, 1], [1, 1])
    return %1
"""

from __future__ import annotations

from torch import fx

from .ops import op_name


def dump(gm: fx.GraphModule) -> str:
    """The graph as text. Equal text means the same ops, wiring and arguments (not the same weights)."""
    names: dict[fx.Node, str] = {}
    lines: list[str] = []
    for node in gm.graph.nodes:
        if node.op == "get_attr":
            names[node] = f"@{node.target}"
            continue
        if node.op == "output":
            lines.append(f"return {_text(node.args[0], names)}")
            continue
        names[node] = f"%{len(lines)}"
        lines.append(f"{names[node]} = {_call(node, names)}")
    return "\n".join(lines)


def _call(node: fx.Node, names: dict[fx.Node, str]) -> str:
    if node.op == "placeholder":
        return f"input {node.target}"
    args = [_text(arg, names) for arg in node.args]
    args += [f"{key}={_text(value, names)}" for key, value in node.kwargs.items()]
    return f"{op_name(node.target)}({', '.join(args)})"


def _text(value: object, names: dict[fx.Node, str]) -> str:
    match value:
        case fx.Node():
            return names[value]
        case list() | tuple():
            inner = ", ".join(_text(item, names) for item in value)
            return f"[{inner}]" if isinstance(value, list) else f"({inner})"
        case dict():
            return "{" + ", ".join(f"{key}: {_text(item, names)}" for key, item in value.items()) + "}"
        case float():
            return f"{value:.9g}"
    return str(value).removeprefix("torch.")
