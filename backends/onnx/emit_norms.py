"""Lowerings of normalization."""

from __future__ import annotations

import torch
from torch import fx

from ...compiler.ir.ops import aten, bound_args
from .table import Call, Value, lowerings
from .writer import Writer


@lowerings.op(aten.batch_norm.default)
def batch_norm(w: Writer, call: Call) -> str:
    x = call.tensor("input")
    channels = int(call.tensor("running_mean").shape[0])
    gain = call.optional("weight") or w.vector(torch.ones(channels), "ones")
    shift = call.optional("bias") or w.vector(torch.zeros(channels), "zeros")
    statistics = [call.tensor("running_mean").name, call.tensor("running_var").name]
    inputs = [x.name, gain, shift, *statistics]
    return w.op("BatchNormalization", inputs, call.name, epsilon=call.args["eps"])


@lowerings.op(aten.layer_norm.default)
def layer_norm(w: Writer, call: Call) -> str:
    sizes = call.args["normalized_shape"]
    gain = call.optional("weight") or w.vector(torch.ones(*sizes), "ones")
    bias = call.optional("bias")
    inputs = [call.tensor("input").name, gain, *([bias] if bias else [])]
    return w.op("LayerNormalization", inputs, call.name, axis=-len(sizes), epsilon=call.args["eps"])


def _own_statistics(node: fx.Node) -> str | None:
    return None if bound_args(node)["use_input_stats"] else "the statistics are not the input's own"


@lowerings.op(aten.instance_norm.default, check=_own_statistics)
def instance_norm(w: Writer, call: Call) -> str:
    x = call.tensor("input")
    gain = call.optional("weight") or w.vector(torch.ones(int(x.shape[1])), "ones")
    shift = call.optional("bias") or w.vector(torch.zeros(int(x.shape[1])), "zeros")
    return w.op("InstanceNormalization", [x.name, gain, shift], call.name, epsilon=call.args["eps"])


@lowerings.op(aten.group_norm.default)
def group_norm(w: Writer, call: Call) -> str:
    """Every group is one channel of an InstanceNormalization; the gain of each channel comes after it."""
    x, groups = call.tensor("input"), call.args["num_groups"]
    grouped = w.op("Reshape", [x.name, w.ints([0, groups, -1])])
    ones, zeros = w.vector(torch.ones(groups), "ones"), w.vector(torch.zeros(groups), "zeros")
    normal = w.op("InstanceNormalization", [grouped, ones, zeros], epsilon=call.args["eps"])
    value = w.op("Reshape", [normal, w.op("Shape", [x.name])])
    for kind, key in (("Mul", "weight"), ("Add", "bias")):
        if isinstance(call.args[key], Value):
            sizes = w.ints([-1] + [1] * (x.rank - 2))
            value = w.op(kind, [value, w.op("Reshape", [call.tensor(key).name, sizes])])
    return w.op("Identity", [value], call.name)


@lowerings.op(aten.cosine_similarity.default)
def cosine_similarity(w: Writer, call: Call) -> str:
    """x1 · x2 / (max(|x1|, eps) · max(|x2|, eps))"""
    names = [call.tensor(key).name for key in ("x1", "x2")]
    axes, eps = w.ints([call.args["dim"]]), w.scalar(call.args["eps"])
    lengths = [w.op("Max", [w.op("ReduceL2", [name, axes], keepdims=0), eps]) for name in names]
    product = w.op("ReduceSum", [w.op("Mul", names), axes], keepdims=0)
    return w.op("Div", [product, w.op("Mul", lengths)], call.name)
