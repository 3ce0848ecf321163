"""Graphs as Mermaid flowcharts, which GitHub draws: a graph before a pass and, below it, after it.

Colours say what runs in float, what on integers, and where values are quantized; a thick border marks what the
pass made, moved or changed. Labels hold two digits of each number, so that they are the same on every processor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

import torch
from fxedge.compiler.ir.constants import get_constant
from fxedge.compiler.ir.ops import op_name
from fxedge.compiler.ir.qops import is_dequantize, is_quantize
from torch import Tensor, fx

_STYLES = """\
  classDef float fill:#ffe0b2,stroke:#e65100,color:#000
  classDef int8 fill:#bbdefb,stroke:#0d47a1,color:#000
  classDef quantize fill:#e1bee7,stroke:#6a1b9a,color:#000
  classDef floatdata fill:#fff8e1,stroke:#e65100,color:#000
  classDef int8data fill:#e3f2fd,stroke:#0d47a1,color:#000
  classDef border fill:#eeeeee,stroke:#616161,color:#000
  classDef changed stroke-width:4px"""
_MOST_VALUES = 12


def before_and_after(before: fx.GraphModule, after: fx.GraphModule) -> str:
    """One flowchart of both graphs."""
    known, made = (Counter(_labels(gm).values()) for gm in (before, after))
    lines = ['%%{init: {"flowchart": {"wrappingWidth": 320}}}%%', "flowchart TB"]
    for title, letter, gm in (("before", "b", before), ("after", "a", after)):
        new = {label for label in made if gm is after and made[label] > known[label]}
        lines += [f"  subgraph {title}", "    direction LR", *_lines(gm, letter, new), "  end"]
    return "\n".join([*lines, "  before ~~~ after", _STYLES])


def _lines(gm: fx.GraphModule, letter: str, new: Collection[str]) -> Iterator[str]:
    labels = _labels(gm)
    ids = {node: f"{letter}{index}" for index, node in enumerate(labels)}
    for node, label in labels.items():
        shape = '(["{}"])' if node.op in ("placeholder", "output") else '["{}"]'
        yield f"    {ids[node]}{shape.format(label)}:::{_kind(gm, node)}"
    for node in labels:
        for source in node.all_input_nodes:
            if source in ids:
                yield f"    {ids[source]} --> {ids[node]}"
    if marked := [ids[node] for node, label in labels.items() if label in new]:
        yield f"    class {','.join(marked)} changed"


def _labels(gm: fx.GraphModule) -> dict[fx.Node, str]:
    """What stands in the box of each node. The scales that weights' dequantize nodes read stand in those."""
    return {node: _label(gm, node) for node in gm.graph.nodes if not _is_parameter(node)}


def _is_parameter(node: fx.Node) -> bool:
    users = list(node.users)
    return node.op == "get_attr" and all(is_dequantize(user) and user.args[0] is not node for user in users)


def _label(gm: fx.GraphModule, node: fx.Node) -> str:
    if node.op == "placeholder":
        return f"input {node.target}"
    if node.op == "output":
        return "output"
    if node.op == "get_attr":
        return f"{node.target}<br/>{_values(get_constant(gm, str(node.target)))}"
    if is_quantize(node) or is_dequantize(node):
        kind = "quantize" if is_quantize(node) else "dequantize"
        return f"{kind}<br/>{_parameters(gm, node)}"
    name = op_name(node.target).partition(".")[0]
    numbers = [] if node.name.startswith(("conv", "linear")) else [*_numbers(node.args)]
    return f"{name} {', '.join(numbers)}".strip()


def _parameters(gm: fx.GraphModule, node: fx.Node) -> str:
    scale, zero_point = node.args[1], node.args[2]
    if isinstance(scale, fx.Node):
        return f"scales {_values(get_constant(gm, str(scale.target)))}"
    return f"{str(node.args[-1]).removeprefix('torch.')}, scale {_number(scale)}, zero point {zero_point}"


def _numbers(args: object) -> Iterator[str]:
    """The numbers among the arguments of an op."""
    if isinstance(args, list | tuple):
        for arg in args:
            yield from _numbers(arg)
    elif isinstance(args, int | float) and not isinstance(args, bool):
        yield _number(args)


def _values(tensor: Tensor) -> str:
    """All values where they are few, else what the scales hang on: the largest magnitude of each row."""
    if tensor.numel() <= _MOST_VALUES and tensor.ndim <= 1:
        return ", ".join(map(_number, tensor.tolist()))
    rows = tensor.reshape(len(tensor), -1)
    if tensor.numel() <= _MOST_VALUES or (not tensor.is_floating_point() and rows.shape[1] <= _MOST_VALUES):
        return "<br/>".join(", ".join(map(_number, row)) for row in rows.tolist())
    largest = rows.to(torch.float64).abs().amax(1).tolist()
    return f"largest by row: {', '.join(map(_number, largest))}"


def _number(value: object) -> str:
    return str(value) if isinstance(value, int) else f"{float(f'{value:.2g}') + 0.0:g}"


def _kind(gm: fx.GraphModule, node: fx.Node) -> str:
    if node.op in ("placeholder", "output"):
        return "border"
    if node.op == "get_attr":
        return "floatdata" if get_constant(gm, str(node.target)).is_floating_point() else "int8data"
    if is_quantize(node) or is_dequantize(node):
        return "quantize"
    return "int8" if _reads_integers(node) and _gives_integers(node) else "float"


def _reads_integers(node: fx.Node) -> bool:
    """Whether all data of `node` come through dequantize nodes, perhaps by an op that is one region with it."""
    data = [source for source in node.all_input_nodes if source.op != "get_attr"]
    return all(is_dequantize(source) or (_is_op(source) and _reads_integers(source)) for source in data)


def _gives_integers(node: fx.Node) -> bool:
    return all(is_quantize(user) or (_is_op(user) and _gives_integers(user)) for user in node.users)


def _is_op(node: fx.Node) -> bool:
    return node.op == "call_function" and not is_dequantize(node) and not is_quantize(node)
