"""Which aten ops XNNPACK runs on int8 under ExecuTorch, with which kernel, and when not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch.nn import functional as F

from ...compiler.ir.ops import bound_args
from ...compiler.ir.shapes import recorded_shape
from ...compiler.quant import kernels
from ...compiler.quant.arithmetic import Kernel, move, reshape
from ...compiler.quant.qparams import QSpec
from ...compiler.quant.supports import (
    all_of,
    batched,
    growing_pad,
    image_mean,
    matrix,
    one_output,
    plain_sum,
    rank,
    two_tensors,
)
from ...compiler.quant.target import OpRule, Support, TargetSpec, always
from ..xnnpack import arithmetic as xnnpack
from ..xnnpack.arithmetic import INT8, WEIGHT
from . import arithmetic
from .emit_steps import is_strided, reshaped_sizes

aten = torch.ops.aten

_WEIGHT_PER_TENSOR = QSpec(-127, 127, torch.int8, symmetric=True)

_CLAMPS = frozenset({aten.relu.default, aten.hardtanh.default, aten.clamp.default})


def _image(node: fx.Node) -> str | None:
    shape = recorded_shape(node.args[0])
    known = shape is not None and len(shape) == 4 and isinstance(shape[1], int)
    return None if known else "its input is not an image of known channels"


def _slope(node: fx.Node) -> str | None:
    """The kernel's multiplier of negative values has 8 fractional bits."""
    slope = bound_args(node)["negative_slope"]
    return None if 0.01 <= slope <= 1 else f"a slope of {slope} is outside [0.01, 1], which the kernel takes"


def _static_space(node: fx.Node) -> str | None:
    shape = recorded_shape(node.args[0])
    known = shape is not None and all(isinstance(size, int) for size in shape[1:])
    return None if known else "its channels, height and width are not all known"


def _max_pool(node: fx.Node) -> str | None:
    args = bound_args(node)
    kernel, stride = _pair(args["kernel_size"]), _pair(args["stride"] or args["kernel_size"])
    if args["ceil_mode"]:
        return "ceil mode has no integer kernel"
    return None if all(s <= k for s, k in zip(stride, kernel, strict=True)) else "the stride exceeds the window"


def _pair(value: Any) -> tuple[int, int]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * 2 if len(values) == 1 else values


def _several_inputs(node: fx.Node) -> str | None:
    inputs = bound_args(node)["tensors"]
    return None if len(inputs) >= 2 else "it joins a single tensor"


def _one_symbol(node: fx.Node) -> str | None:
    return None if reshaped_sizes(node) is not None else "more than one size is symbolic"


def _one_dynamic(node: fx.Node) -> str | None:
    """A convolution over one axis is reshaped into one over two, with one symbolic size at most."""
    shape = recorded_shape(node)
    symbols = 0 if shape is None else sum(not isinstance(size, int) for size in shape)
    return None if symbols <= 1 else "more than one size is symbolic"


def _grows(node: fx.Node) -> str | None:
    args = bound_args(node)
    if args.get("mode", "constant") != "constant":
        return f"padding mode {args['mode']!r} has no integer kernel"
    return growing_pad(node) or (None if not args.get("value") else "the padding is not zero")


def _slice(node: fx.Node) -> str | None:
    """XNNPACK's own slice, or every nth row or column, which `emit_steps` writes as a convolution."""
    shape = recorded_shape(node.args[0])
    if is_strided(node):
        return None if shape is not None and len(shape) == 4 else "its input has no height and width"
    if shape is None or not all(isinstance(size, int) for size in shape):
        return "XNNPACK slices values of fixed shape only"
    return None if bound_args(node)["step"] == 1 else "XNNPACK slices in steps of 1 only"


def _products() -> dict[OpOverload, OpRule]:
    convolution = OpRule(arithmetic.layers.conv, fuses=_CLAMPS, check=batched)
    transposed = OpRule(arithmetic.layers.conv_transpose, fuses=_CLAMPS, weight=_WEIGHT_PER_TENSOR, check=batched)
    return {
        aten.conv1d.default: dataclasses.replace(convolution, check=all_of(batched, _one_dynamic)),
        aten.conv2d.default: convolution,
        aten.conv_transpose2d.input: transposed,
        aten.linear.default: OpRule(arithmetic.layers.linear, fuses=_CLAMPS, check=matrix),
    }


def _elementwise() -> dict[OpOverload, OpRule]:
    clamp = OpRule(kernels.clamp_alone(xnnpack.quantize), shared=True)
    return {
        aten.add.Tensor: OpRule(xnnpack.add, fuses=_CLAMPS, check=plain_sum),
        aten.sub.Tensor: OpRule(xnnpack.sub, fuses=_CLAMPS, check=plain_sum),
        aten.mul.Tensor: OpRule(kernels.product, fuses=_CLAMPS, check=two_tensors),
        aten.cat.default: OpRule(kernels.concat, shared=True, check=_several_inputs),
        aten.sigmoid.default: OpRule(xnnpack.elementwise(torch.sigmoid), tolerance=1, fixed=xnnpack.PROBABILITY),
        aten.tanh.default: OpRule(xnnpack.elementwise(torch.tanh), tolerance=1, fixed=xnnpack.TANH),
        aten.hardswish.default: OpRule(xnnpack.elementwise(F.hardswish), tolerance=1),
        aten.gelu.default: OpRule(kernels.gelu_table(xnnpack.quantize), tolerance=1),
        aten.silu.default: OpRule(arithmetic.silu, tolerance=1),
        aten.hardsigmoid.default: OpRule(arithmetic.hardsigmoid, fixed=xnnpack.PROBABILITY, check=_image),
        aten.leaky_relu.default: OpRule(xnnpack.leaky_relu, check=_slope),
        aten.relu.default: clamp,
        aten.hardtanh.default: clamp,
        aten.clamp.default: clamp,
    }


def _pools() -> dict[OpOverload, OpRule]:
    def rule(kernel: Kernel, *checks: Support, shared: bool = False) -> OpRule:
        return OpRule(kernel, shared=shared, check=all_of(*checks))

    padding = rule(arithmetic.pad, _grows, shared=True)
    return {
        aten.max_pool2d.default: rule(kernels.max_pool, rank(4), _max_pool, shared=True),
        aten.adaptive_avg_pool2d.default: rule(arithmetic.spatial_mean, rank(4), one_output, _static_space),
        aten.mean.dim: rule(arithmetic.spatial_mean, rank(4), image_mean, _static_space),
        aten.pad.default: padding,
        aten.constant_pad_nd.default: padding,
    }


def _views() -> dict[OpOverload, OpRule]:
    def moved(op: Callable[..., Any], *checks: Support) -> OpRule:
        return OpRule(move(op), shared=True, check=all_of(*checks) if checks else always)

    reshaped = OpRule(reshape, shared=True, check=_one_symbol)
    views = (aten.flatten.using_ints, aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims)
    return {
        aten.view.default: reshaped,
        aten.reshape.default: reshaped,
        **{op: moved(op, _one_symbol) for op in views},
        aten.unflatten.int: moved(aten.unflatten.int, _one_symbol),
        aten.permute.default: moved(aten.permute.default),
        aten.transpose.int: moved(aten.transpose.int),
        aten.contiguous.default: moved(aten.contiguous.default),
        aten.slice.Tensor: moved(aten.slice.Tensor, _slice),
    }


EXECUTORCH = TargetSpec(
    name="executorch",
    activation=INT8,
    weight=WEIGHT,
    bias="int32",
    ops={**_products(), **_elementwise(), **_pools(), **_views()},
    quantize=xnnpack.quantize,
    isa=("avx2", "vnni"),
    saturation={"avx2": None, "vnni": None, "neon": None},
    notes=(
        "A run takes 8 samples at most, other dynamic axes 512 elements: ExecuTorch plans memory for the largest. "
        "fxedge runs more samples in several goes.",
        "Convolution, linear, add, sub, mul and all that moves integers are exact; nothing saturates in 16 bits.",
    ),
)
