"""Lowerings of convolutions, linear and matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import fx

from ...compiler.ir.constants import constant
from ...compiler.ir.ops import aten, bound_args
from .table import Call, lowerings
from .writer import Writer


@lowerings.op(
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv1d.padding,
    aten.conv2d.padding,
    aten.conv3d.padding,
)
def conv(w: Writer, call: Call) -> str:
    weight = call.tensor("weight")
    kernel = [int(size) for size in weight.shape[2:]]
    dilation = spread(call.args["dilation"], len(kernel))
    return w.op(
        "Conv",
        _operands(call),
        call.name,
        kernel_shape=kernel,
        strides=spread(call.args["stride"], len(kernel)),
        pads=_pads(call.args["padding"], kernel, dilation),
        dilations=dilation,
        group=call.args["groups"],
    )


@lowerings.op(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
def conv_transpose(w: Writer, call: Call) -> str:
    kernel = list(call.tensor("weight").shape[2:])
    return w.op(
        "ConvTranspose",
        _operands(call),
        call.name,
        kernel_shape=kernel,
        strides=spread(call.args["stride"], len(kernel)),
        pads=spread(call.args["padding"], len(kernel)) * 2,
        output_padding=spread(call.args["output_padding"], len(kernel)),
        dilations=spread(call.args["dilation"], len(kernel)),
        group=call.args["groups"],
    )


@lowerings.op(aten.linear.default)
def linear(w: Writer, call: Call) -> str:
    """Gemm for a matrix, else MatMul with the weight transposed once, at compile time."""
    x, weight = call.tensor("input"), call.tensor("weight")
    bias = call.optional("bias")
    if x.rank == 2:
        return w.op("Gemm", [x.name, weight.name, *([bias] if bias else [])], call.name, transB=1)
    assert weight.node.graph.owning_module is not None
    stored = constant(weight.node.graph.owning_module, weight.node)
    if stored is None:
        transposed = w.op("Transpose", [weight.name], perm=[1, 0])
    else:
        transposed = w.initializer(f"{weight.name}/transposed", stored.t())
    if not bias:
        return w.op("MatMul", [x.name, transposed], call.name)
    return w.op("Add", [w.op("MatMul", [x.name, transposed]), bias], call.name)


@lowerings.op(aten.matmul.default)
def matmul(w: Writer, call: Call) -> str:
    return w.op("MatMul", [call.tensor("self").name, call.tensor("other").name], call.name)


@lowerings.op(aten.mm.default, aten.bmm.default)
def matrix_product(w: Writer, call: Call) -> str:
    return w.op("MatMul", [call.tensor("self").name, call.tensor("mat2").name], call.name)


@lowerings.op(aten.addmm.default)
def addmm(w: Writer, call: Call) -> str:
    operands = [call.tensor(key).name for key in ("mat1", "mat2", "self")]
    factors = {"alpha": float(call.args["alpha"]), "beta": float(call.args["beta"])}
    return w.op("Gemm", operands, call.name, **factors)


def _plain_attention(node: fx.Node) -> str | None:
    args = bound_args(node)
    if args["is_causal"]:
        return "is_causal is set; pass the mask as attn_mask"
    return "enable_gqa is set" if args["enable_gqa"] else None


@lowerings.op(aten.scaled_dot_product_attention.default, check=_plain_attention)
def attention(w: Writer, call: Call) -> str:
    """softmax(q · kᵀ · scale + mask) · v; a boolean mask keeps where it is true."""
    query, key = call.tensor("query"), call.tensor("key")
    axes = [*range(key.rank - 2), key.rank - 1, key.rank - 2]
    scale = call.args["scale"] or 1 / math.sqrt(float(query.shape[-1]))
    turned = w.op("Transpose", [key.name], perm=axes)
    scores = w.op("MatMul", [w.op("Mul", [query.name, w.scalar(scale)]), turned])
    if call.args["attn_mask"] is not None:
        mask = call.tensor("attn_mask")
        if mask.dtype == torch.bool:
            scores = w.op("Where", [mask.name, scores, w.scalar(-math.inf)])
        else:
            scores = w.op("Add", [scores, mask.name])
    return w.op("MatMul", [w.op("Softmax", [scores], axis=-1), call.tensor("value").name], call.name)


def spread(value: int | Sequence[int], axes: int) -> list[int]:
    """One number for each spatial axis."""
    values = [value] if isinstance(value, int) else list(value)
    return values * axes if len(values) == 1 else values


def _operands(call: Call) -> list[str]:
    bias = call.optional("bias")
    return [call.tensor("input").name, call.tensor("weight").name, *([bias] if bias else [])]


def _pads(padding: str | Sequence[int], kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [t // 2 for t in total] + [t - t // 2 for t in total]
    return [0] * 2 * len(kernel) if padding == "valid" else spread(padding, len(kernel)) * 2  # type: ignore[arg-type]
