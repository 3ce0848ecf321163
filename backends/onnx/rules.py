"""Which aten ops onnxruntime runs on integers, with which kernel, and when not.

Ops without a row have no integer kernel that QDQ fuses into (LayerNorm, Div, bilinear Resize, float reductions):
they run in float between quantized neighbours. Sub, Tanh and Gelu do so too, but their result
depends on a few integers only and is reproduced, so that they count as integer steps whose parity is
checked. ConvTranspose runs on integers as a QLinearConv whose output channels are rearranged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from ...compiler.ir.clamps import unusable_bounds
from ...compiler.ir.ops import bound_args
from ...compiler.ir.sizes import shape
from ...compiler.quant import kernels
from ...compiler.quant.arithmetic import move, piece, reshape, unchanged
from ...compiler.quant.qparams import QParams, QSpec, quantize
from ...compiler.quant.supports import fixed_arguments, one_output, plain_sum, two_tensors, with_known_shapes
from ...compiler.quant.target import OpRule, TargetSpec, with_kernels
from . import arithmetic, neon
from .emit_pools import average_pool_reason
from .pairing import pairing

aten = torch.ops.aten

UINT8 = QSpec(0, 255, torch.uint8)
WEIGHT = QSpec(-127, 127, torch.int8, symmetric=True, per_channel=True)

_CLAMPS = frozenset({aten.relu.default, aten.hardtanh.default, aten.clamp.default, aten.clamp.Tensor})
_PROBABILITY = QParams((1 / 256,), (0,), 0, 255, torch.uint8)
_TANH = QParams((1 / 128,), (128,), 0, 255, torch.uint8)


def _undilated(node: fx.Node) -> str | None:
    dilation, sizes = bound_args(node)["dilation"], shape(node.args[0])[2:]
    if set(dilation if isinstance(dilation, (list, tuple)) else [dilation]) != {1}:
        return "a dilated transposed convolution has no integer form"
    return None if all(isinstance(size, int) for size in sizes) else "a spatial axis has a symbolic size"


def _matrix(node: fx.Node) -> str | None:
    return None if all(len(shape(arg)) >= 2 for arg in node.args[:2]) else "an operand is a vector"


def _linear(node: fx.Node) -> str | None:
    return "the input is a vector" if len(shape(node.args[0])) < 2 else None


def _spatial_mean(node: fx.Node) -> str | None:
    args, rank = bound_args(node), len(shape(node.args[0]))
    if args["dtype"] is not None:
        return "the mean changes the dtype"
    axes = sorted(axis % rank for axis in args["dim"] or range(rank))
    return None if rank > 2 and axes == list(range(2, rank)) else "the mean is not over every spatial axis"


def _whole_factors(node: fx.Node) -> str | None:
    args, sizes = bound_args(node), shape(node.args[0])
    factors = args["scale_factors"]
    if factors is None:
        pairs = list(zip(args["output_size"], sizes[2:], strict=True))
        if not all(isinstance(out, int) and isinstance(size, int) for out, size in pairs):
            return "the output size is symbolic"
        factors = [out / size for out, size in pairs]
    return None if all(factor == int(factor) for factor in factors) else "the scale is not a whole number"


def _grows(node: fx.Node) -> str | None:
    pads = node.args[1]
    whole = all(isinstance(side, int) and side >= 0 for side in pads)  # type: ignore[union-attr]
    return None if whole else "a pad is negative or symbolic"


def _reshape(node: fx.Node) -> str | None:
    args, old, new = bound_args(node), shape(node.args[0]), shape(node)
    sizes = args["size"] if "size" in args else args["shape"]
    symbols = [place for place, size in enumerate(sizes) if isinstance(size, fx.Node)]
    if len(symbols) + sum(size == -1 for size in sizes) <= 1:
        return None
    kept = all(place < len(old) and old[place] == new[place] for place in symbols)
    return None if kept else "more than one size is unknown"


def _static_sizes(node: fx.Node) -> str | None:
    symbolic = any(isinstance(size, fx.Node) for size in bound_args(node)["sizes"])
    return "a size is symbolic" if symbolic else None


def _kept_symbols(node: fx.Node) -> str | None:
    old, new = shape(node.args[0]), shape(node)
    pairs = zip(reversed(new), reversed(old), strict=False)
    grown = any(isinstance(size, str) for size in new[: len(new) - len(old)])
    changed = any(isinstance(size, str) and size != before for size, before in pairs)
    return "a symbolic axis is expanded" if grown or changed else None


def _pieces(node: fx.Node) -> str | None:
    args = bound_args(node)
    axis_size = shape(node.args[0])[args["dim"]]
    return None if isinstance(axis_size, int) else "the split axis has a symbolic size"


def _several_terms(node: fx.Node) -> str | None:
    """QLinearSoftmax scales its exponentials so near to float32's largest that a single one overflows to 0."""
    size = shape(node.args[0])[bound_args(node)["dim"]]
    if isinstance(size, int):
        return "the softmax is over one element" if size == 1 else None
    return "the softmax is over a symbolic size, which may be 1"


def _move(op: Callable[..., Any], check: Callable[[fx.Node], str | None] | None = None) -> OpRule:
    rule = OpRule(move(op), shared=True)
    return rule if check is None else dataclasses.replace(rule, check=with_known_shapes(check))


def _compute(kernel: Any, check: Callable[[fx.Node], str | None] | None = None) -> OpRule:
    rule = OpRule(kernel, fuses=_CLAMPS)
    return rule if check is None else dataclasses.replace(rule, check=with_known_shapes(check))


def _table(function: Any, fixed: QParams | None = None, tolerance: int = 0) -> OpRule:
    return OpRule(arithmetic.elementwise(function), tolerance=tolerance, fixed=fixed)


def _products() -> dict[OpOverload, OpRule]:
    convolution = _compute(arithmetic.conv)
    transposed = _compute(arithmetic.conv_transpose, _undilated)
    product = _compute(arithmetic.matmul, _matrix)
    return {
        aten.conv1d.default: convolution,
        aten.conv2d.default: convolution,
        aten.conv3d.default: convolution,
        aten.conv_transpose1d.default: transposed,
        aten.conv_transpose2d.input: transposed,
        aten.conv_transpose3d.input: transposed,
        aten.linear.default: _compute(arithmetic.linear, _linear),
        aten.matmul.default: product,
        aten.bmm.default: product,
        aten.mm.default: product,
        aten.add.Tensor: _compute(arithmetic.add, plain_sum),
        aten.mul.Tensor: _compute(arithmetic.mul, two_tensors),
        aten.sub.Tensor: _compute(arithmetic.sub, plain_sum),
        aten.cat.default: _compute(arithmetic.concat),
    }


def _elementwise() -> dict[OpOverload, OpRule]:
    clamp = OpRule(arithmetic.clamp)
    return {
        aten.relu.default: clamp,
        aten.hardtanh.default: clamp,
        aten.clamp.default: clamp,
        aten.clamp.Tensor: OpRule(unchanged, shared=True, check=unusable_bounds),
        aten.leaky_relu.default: OpRule(arithmetic.leaky_relu),
        aten.hardswish.default: OpRule(arithmetic.hardswish, tolerance=1),
        aten.hardsigmoid.default: OpRule(arithmetic.hardsigmoid, tolerance=1, fixed=arithmetic.GATE),
        aten.sigmoid.default: _table(torch.sigmoid, fixed=_PROBABILITY, tolerance=1),
        aten.tanh.default: _table(torch.tanh, fixed=_TANH, tolerance=1),
        aten.silu.default: OpRule(arithmetic.silu, tolerance=1),
        aten.gelu.default: OpRule(arithmetic.gelu, tolerance=1),
        aten.softmax.int: OpRule(arithmetic.softmax, fixed=_PROBABILITY, check=with_known_shapes(_several_terms)),
    }


def _pools() -> dict[OpOverload, OpRule]:
    average = _compute(arithmetic.average_pool, average_pool_reason)
    over_space = _compute(arithmetic.global_average, one_output)
    largest = OpRule(kernels.max_pool, shared=True)
    nearest = OpRule(kernels.upsample_nearest, shared=True, check=with_known_shapes(_whole_factors))
    padding = OpRule(arithmetic.pad, shared=True, check=with_known_shapes(_grows))
    return {
        aten.avg_pool1d.default: average,
        aten.avg_pool2d.default: average,
        aten.avg_pool3d.default: average,
        aten.adaptive_avg_pool1d.default: over_space,
        aten.adaptive_avg_pool2d.default: over_space,
        aten.adaptive_avg_pool3d.default: over_space,
        aten.mean.dim: _compute(arithmetic.global_average, _spatial_mean),
        aten.max_pool1d.default: largest,
        aten.max_pool2d.default: largest,
        aten.max_pool3d.default: largest,
        aten.upsample_nearest1d.vec: nearest,
        aten.upsample_nearest2d.vec: nearest,
        aten.upsample_nearest3d.vec: nearest,
        aten.pad.default: padding,
        aten.constant_pad_nd.default: padding,
    }


def _views() -> dict[OpOverload, OpRule]:
    def pieces(op: Any) -> OpRule:
        return OpRule(piece(op), shared=True, check=with_known_shapes(_pieces))

    reshaped = OpRule(reshape, shared=True, check=with_known_shapes(_reshape))
    return {
        aten.view.default: reshaped,
        aten.reshape.default: reshaped,
        aten.flatten.using_ints: _move(aten.flatten.using_ints),
        aten.unflatten.int: _move(aten.unflatten.int, _static_sizes),
        aten.permute.default: _move(aten.permute.default),
        aten.transpose.int: _move(aten.transpose.int),
        aten.unsqueeze.default: _move(aten.unsqueeze.default),
        aten.squeeze.dim: _move(aten.squeeze.dim),
        aten.squeeze.dims: _move(aten.squeeze.dims),
        aten.expand.default: _move(aten.expand.default, _kept_symbols),
        aten.slice.Tensor: _move(aten.slice.Tensor, fixed_arguments),
        aten.select.int: _move(aten.select.int, fixed_arguments),
        aten.contiguous.default: _move(aten.contiguous.default),
        aten.pixel_shuffle.default: _move(aten.pixel_shuffle.default),
        aten.split.Tensor: pieces(aten.split.Tensor),
        aten.split_with_sizes.default: pieces(aten.split_with_sizes.default),
        aten.chunk.default: pieces(aten.chunk.default),
    }


_X86 = TargetSpec(
    name="onnx",
    activation=UINT8,
    weight=WEIGHT,
    bias="int32",
    ops={**_products(), **_elementwise(), **_pools(), **_views()},
    quantize=quantize,
    isa=("avx2", "vnni", "neon"),
    saturation={"avx2": pairing, "vnni": None, "neon": None},
    channel_clamp="fast",
    notes=(
        "Without VNNI (AVX2, AVX-512) sums of two products saturate in int16 unless compiled for the ISA avx2.",
        "On arm64 sums and products of two activations are rounded otherwise; nothing saturates there.",
        "An activation bound inside the uint8 range is an integer Clip after QuantizeLinear.",
    ),
)

ONNX = dataclasses.replace(_X86, kernels={"neon": with_kernels(_X86, neon.KERNELS)})
