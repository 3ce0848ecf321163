"""Which aten ops LiteRT runs on int8, with which kernel, and when not.

Ops without a row run in float between quantized neighbours. CONCATENATION demands equal parameters of all its
inputs; pools, views, pads and clamps that stand alone keep theirs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from ...compiler.ir.clamps import unusable_bounds
from ...compiler.ir.ops import aten, bound_args
from ...compiler.ir.sizes import shape
from ...compiler.quant import kernels
from ...compiler.quant.arithmetic import move, piece, reshape, unchanged
from ...compiler.quant.supports import (
    all_of,
    fixed_arguments,
    growing_pad,
    one_output,
    plain_sum,
    two_tensors,
    with_known_shapes,
)
from ...compiler.quant.target import OpRule, TargetSpec, with_kernels
from ..xnnpack import arithmetic as xnnpack
from ..xnnpack.arithmetic import INT8, WEIGHT
from . import arithmetic, builtin
from .emit_pools import plain_average, whole_factors
from .table import lowerings

_CLAMPS = frozenset({aten.relu.default, aten.hardtanh.default, aten.clamp.default, aten.clamp.Tensor})

_Check = Callable[[fx.Node], "str | None"]


def _checked(target: OpOverload, check: _Check | None) -> _Check:
    """What the emitter refuses, then `check`; an unknown shape is a reason too."""
    return lowerings.reason if check is None else all_of(lowerings.reason, with_known_shapes(check))


def _plain_mean(node: fx.Node) -> str | None:
    args = bound_args(node)
    if args["dtype"] is not None:
        return "the mean changes the dtype"
    return None if args["dim"] else "the mean is over every axis"


def _constant_pad(node: fx.Node) -> str | None:
    args = bound_args(node)
    if args.get("mode", "constant") != "constant":
        return f"no integer kernel for mode {args['mode']}"
    return growing_pad(node)


def _one_unknown(node: fx.Node) -> str | None:
    unknown = sum(not isinstance(size, int) for size in shape(node))
    return "more than one size is unknown" if unknown > 1 else None


def _last_axis(node: fx.Node) -> str | None:
    rank = len(shape(node.args[0]))
    return None if bound_args(node)["dim"] % rank == rank - 1 else "the softmax is not over the last axis"


def _products() -> dict[OpOverload, OpRule]:
    rows = {
        aten.conv1d.default: OpRule(arithmetic.conv, fuses=_CLAMPS),
        aten.conv2d.default: OpRule(arithmetic.conv, fuses=_CLAMPS),
        aten.conv_transpose1d.default: OpRule(arithmetic.conv_transpose, fuses=_CLAMPS),
        aten.conv_transpose2d.input: OpRule(arithmetic.conv_transpose, fuses=_CLAMPS),
        aten.linear.default: OpRule(arithmetic.linear, fuses=_CLAMPS),
        aten.matmul.default: OpRule(arithmetic.matmul, fuses=_CLAMPS),
        aten.bmm.default: OpRule(arithmetic.matmul, fuses=_CLAMPS),
        aten.mm.default: OpRule(arithmetic.matmul, fuses=_CLAMPS),
    }
    sums = {
        aten.add.Tensor: (OpRule(arithmetic.add, fuses=_CLAMPS), plain_sum),
        aten.sub.Tensor: (OpRule(arithmetic.sub, fuses=_CLAMPS), plain_sum),
        aten.mul.Tensor: (OpRule(arithmetic.mul, fuses=_CLAMPS), two_tensors),
        aten.cat.default: (OpRule(kernels.concat, shared=True), None),
    }
    return {op: _with(op, rule) for op, rule in rows.items()} | {
        op: _with(op, rule, check) for op, (rule, check) in sums.items()
    }


def _elementwise() -> dict[OpOverload, OpRule]:
    clamp = OpRule(arithmetic.clamp, shared=True)
    rows: dict[OpOverload, tuple[OpRule, _Check | None]] = {
        aten.relu.default: (clamp, None),
        aten.hardtanh.default: (clamp, None),
        aten.clamp.default: (clamp, None),
        aten.clamp.Tensor: (OpRule(unchanged, shared=True), unusable_bounds),
        aten.leaky_relu.default: (OpRule(xnnpack.leaky_relu), None),
        aten.hardswish.default: (OpRule(arithmetic.hardswish), None),
        aten.hardsigmoid.default: (OpRule(arithmetic.hardsigmoid, fixed=arithmetic.GATE), None),
        aten.sigmoid.default: (
            OpRule(xnnpack.elementwise(torch.sigmoid), tolerance=1, fixed=xnnpack.PROBABILITY), None),
        aten.tanh.default: (OpRule(xnnpack.elementwise(torch.tanh), tolerance=1, fixed=xnnpack.TANH), None),
        aten.silu.default: (OpRule(arithmetic.silu, tolerance=1), None),
        aten.gelu.default: (OpRule(arithmetic.gelu, tolerance=1), None),
        aten.softmax.int: (OpRule(arithmetic.softmax, tolerance=1, fixed=xnnpack.PROBABILITY), _last_axis),
    }  # fmt: skip
    return {op: _with(op, rule, check) for op, (rule, check) in rows.items()}


def _pools() -> dict[OpOverload, OpRule]:
    average = OpRule(arithmetic.average_pool, shared=True)
    over_space = OpRule(arithmetic.mean, fuses=_CLAMPS)
    largest = OpRule(kernels.max_pool, shared=True)
    nearest = OpRule(kernels.upsample_nearest, shared=True)
    padding = OpRule(arithmetic.pad, shared=True)
    rows: dict[OpOverload, tuple[OpRule, _Check | None]] = {
        aten.avg_pool1d.default: (average, plain_average),
        aten.avg_pool2d.default: (average, plain_average),
        aten.adaptive_avg_pool1d.default: (over_space, one_output),
        aten.adaptive_avg_pool2d.default: (over_space, one_output),
        aten.mean.dim: (over_space, _plain_mean),
        aten.max_pool1d.default: (largest, None),
        aten.max_pool2d.default: (largest, None),
        aten.upsample_nearest1d.vec: (nearest, whole_factors),
        aten.upsample_nearest2d.vec: (nearest, whole_factors),
        aten.pad.default: (padding, _constant_pad),
        aten.constant_pad_nd.default: (padding, _constant_pad),
    }
    return {op: _with(op, rule, check) for op, (rule, check) in rows.items()}


def _views() -> dict[OpOverload, OpRule]:
    def moved(op: Any) -> OpRule:
        return OpRule(move(op), shared=True)

    def pieces(op: Any) -> OpRule:
        return OpRule(piece(op), shared=True)

    reshaped = OpRule(reshape, shared=True)
    rows: dict[OpOverload, tuple[OpRule, _Check | None]] = {
        aten.view.default: (reshaped, _one_unknown),
        aten.reshape.default: (reshaped, _one_unknown),
        aten.flatten.using_ints: (moved(aten.flatten.using_ints), _one_unknown),
        aten.unflatten.int: (moved(aten.unflatten.int), _one_unknown),
        aten.permute.default: (moved(aten.permute.default), None),
        aten.transpose.int: (moved(aten.transpose.int), None),
        aten.unsqueeze.default: (moved(aten.unsqueeze.default), _one_unknown),
        aten.squeeze.dim: (moved(aten.squeeze.dim), _one_unknown),
        aten.squeeze.dims: (moved(aten.squeeze.dims), _one_unknown),
        aten.slice.Tensor: (moved(aten.slice.Tensor), fixed_arguments),
        aten.select.int: (moved(aten.select.int), fixed_arguments),
        aten.contiguous.default: (moved(aten.contiguous.default), None),
        aten.pixel_shuffle.default: (moved(aten.pixel_shuffle.default), _one_unknown),
        aten.split.Tensor: (pieces(aten.split.Tensor), None),
        aten.split_with_sizes.default: (pieces(aten.split_with_sizes.default), None),
        aten.chunk.default: (pieces(aten.chunk.default), None),
    }
    return {op: _with(op, rule, check) for op, (rule, check) in rows.items()}


def _with(op: OpOverload, rule: OpRule, check: _Check | None = None) -> OpRule:
    return dataclasses.replace(rule, check=_checked(op, check))


_OPS: Mapping[OpOverload, OpRule] = {**_products(), **_elementwise(), **_pools(), **_views()}

_XNNPACK = TargetSpec(
    name="tflite",
    activation=INT8,
    weight=WEIGHT,
    bias="int32",
    ops=_OPS,
    quantize=xnnpack.quantize,
    isa=("avx2", "vnni", "neon"),
    saturation={"avx2": None, "vnni": None, "neon": None},
    channel_clamp="slow",
    notes=(
        "The arithmetic is XNNPACK's; without the delegate TFLite's own kernels ('builtin') round otherwise.",
        "Inputs and outputs keep the model's axis order; one transpose at each border where it is channels first.",
    ),
)

# By the way of running it: without the delegate.
BUILTIN = "builtin"
_OWN = with_kernels(with_kernels(_XNNPACK, builtin.KERNELS), builtin.SUMS, tolerance=1)
TFLITE = dataclasses.replace(_XNNPACK, kernels={BUILTIN: _OWN})
