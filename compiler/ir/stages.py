"""The two stages of a graph and the verifier of each.

FLOAT: aten calls on overloads, constants as `get_attr`, nothing that mutates, no quantize nodes.
QUANTIZED: the same with explicit quantize/dequantize nodes: an integer value is read by dequantize nodes, by
the output, or by nothing else.
"""

from __future__ import annotations

from enum import Enum

from torch import fx
from torch._ops import OpOverload

from .constants import constant, constant_nodes
from .errors import VerifierError
from .nodes import describe
from .ops import PYTHON_OPS, aten, bound_args, op_name
from .qops import DEQUANTIZE, QUANTIZE, is_dequantize, is_quantize


class Stage(Enum):
    FLOAT = "float"
    QUANTIZED = "quantized"


_TRAINING_ARGUMENT = {aten.batch_norm.default: "training", aten.dropout.default: "train"}


def verify(gm: fx.GraphModule, stage: Stage) -> None:
    """Check that `gm` has the form that `stage` promises.

    Raises:
        VerifierError: names the first node that breaks it and says what is allowed.
    """
    try:
        gm.graph.lint()
    except (RuntimeError, ValueError) as error:
        raise VerifierError(f"The graph is not well-formed: {error}") from error
    _verify_constants(gm)
    for node in gm.graph.nodes:
        if node.op not in ("placeholder", "get_attr", "call_function", "output"):
            raise VerifierError(
                f"{describe(node)} is a {node.op} node; only aten calls and constants are allowed. "
                "Capture the module with fxedge.capture."
            )
        if node.op == "call_function":
            _verify_call(node, stage)
    if stage is Stage.QUANTIZED:
        _verify_quantized(gm)


def _verify_constants(gm: fx.GraphModule) -> None:
    seen: set[str] = set()
    for node in constant_nodes(gm):
        if constant(gm, node) is None:
            raise VerifierError(f"{node.name} reads the constant {node.target!r}, which does not exist")
        if str(node.target) in seen:
            raise VerifierError(f"The constant {node.target!r} has two get_attr nodes; one is allowed")
        seen.add(str(node.target))


def _verify_call(node: fx.Node, stage: Stage) -> None:
    target = node.target
    if target in QUANTIZE or target in DEQUANTIZE:
        if stage is Stage.FLOAT:
            raise VerifierError(f"{describe(node)} quantizes in a graph that should be float only")
        return
    if not isinstance(target, OpOverload):
        if target not in PYTHON_OPS:
            raise VerifierError(f"{describe(node)} calls {op_name(target)}, which is not an aten overload")
        return
    if target._schema.is_mutable:
        raise VerifierError(f"{describe(node)} calls {op_name(target)}, which writes to its input")
    flag = _TRAINING_ARGUMENT.get(target)
    if flag is None or not bound_args(node)[flag]:
        return
    if bound_args(node).get("running_mean", True) is None:
        raise VerifierError(
            f"{describe(node)} normalizes by the statistics of its batch; only batch norms with running "
            "statistics can be compiled"
        )
    raise VerifierError(
        f"{describe(node)} was captured in training mode; call model.eval() first, and give functional calls "
        "training=self.training"
    )


def _verify_quantized(gm: fx.GraphModule) -> None:
    for node in gm.graph.nodes:
        if is_quantize(node):
            for user in node.users:
                if not is_dequantize(user) and user.op != "output":
                    raise VerifierError(
                        f"The integers of {describe(node)} are read by {user.name} ({op_name(user.target)}); "
                        "only dequantize nodes and the output may read them"
                    )
        elif is_dequantize(node):
            source = node.args[0]
            if not (is_quantize(source) or getattr(source, "op", "") in ("get_attr", "placeholder")):
                raise VerifierError(f"{describe(node)} dequantizes {source}, which is not a quantized value")
