"""Questions and small edits on fx nodes that passes share."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx


def sole_user(node: fx.Node) -> fx.Node | None:
    """The one node that reads `node`, or None if there are none or several."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def module_path(node: fx.Node) -> str:
    """Dotted path of the module that `node` was captured from; empty for the root."""
    return (module_paths(node) or ("",))[-1]


def module_paths(node: fx.Node) -> tuple[str, ...]:
    """Paths of the modules around `node`, the root (empty) first; none where capture recorded none."""
    return tuple(path for path, _ in (node.meta.get("nn_module_stack") or {}).values())


def describe(node: fx.Node) -> str:
    """`features.3.conv.1 (conv2d_7)`: how messages name a node."""
    path = module_path(node)
    return f"{path} ({node.name})" if path else node.name


def inherit(new: fx.Node, origin: fx.Node) -> fx.Node:
    """Give a node that a pass made the module path and source line of the node that it stands for."""
    for key in ("nn_module_stack", "stack_trace"):
        if key in origin.meta:
            new.meta[key] = origin.meta[key]
    return new


def placeholders(gm: fx.GraphModule) -> list[fx.Node]:
    return [node for node in gm.graph.nodes if node.op == "placeholder"]


def output_node(gm: fx.GraphModule) -> fx.Node:
    return next(node for node in reversed(gm.graph.nodes) if node.op == "output")


def input_name(placeholder: fx.Node) -> str:
    """The name that the model's `forward` gives an input; the node's own may differ (`input_1` for `input`)."""
    return str(placeholder.target)


def flat_outputs(gm: fx.GraphModule) -> dict[str, fx.Node]:
    """Output name -> node, in order: dict keys as they are, `output` for one, `output_0` … for several.

    A name that an input or an earlier output has gets `_out` appended: artifacts need distinct names.
    """
    taken = {input_name(node) for node in placeholders(gm)}
    outputs: dict[str, fx.Node] = {}
    for name, node in _flatten(output_node(gm).args[0], "output"):
        while name in taken:
            name += "_out"
        taken.add(name)
        outputs[name] = node
    return outputs


def _flatten(value: object, name: str) -> Iterator[tuple[str, fx.Node]]:
    if isinstance(value, fx.Node):
        yield name, value
    elif isinstance(value, (tuple, list)):
        single = len(value) == 1
        for index, item in enumerate(value):
            yield from _flatten(item, name if single else f"{name}_{index}")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _flatten(item, key if name == "output" else f"{name}_{key}")
