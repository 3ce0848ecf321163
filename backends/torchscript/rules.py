"""Which aten ops torch's quantized kernels run on integers, with which kernel, and when not.

The three engines share every row but the convolutions and linear. Ops without a row run in float between quantized
neighbours; `arithmetic` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch.nn import functional as F

from ...compiler.ir.clamps import unusable_bounds
from ...compiler.ir.constants import constant
from ...compiler.ir.ops import CONV, CONV_TRANSPOSE, bound_args
from ...compiler.ir.qops import is_dequantize
from ...compiler.ir.shapes import recorded_shape
from ...compiler.quant.arithmetic import Kernel, move, piece, reshape, unchanged
from ...compiler.quant.kernels import concat
from ...compiler.quant.qparams import QParams, QSpec
from ...compiler.quant.supports import all_of, batched, image_mean, matrix, plain_sum, rank, two_tensors
from ...compiler.quant.target import OpRule, Support, always
from . import arithmetic
from .transposed import TransposedShape, TransposeRoad

aten = torch.ops.aten

QUINT8 = QSpec(0, 255, torch.uint8)
WEIGHT = QSpec(-127, 127, torch.int8, symmetric=True, per_channel=True)
_WEIGHT_PER_TENSOR = QSpec(-127, 127, torch.int8, symmetric=True)

_CLAMPS = frozenset({aten.relu.default, aten.hardtanh.default, aten.clamp.default, aten.clamp.Tensor})
_UNIT = QParams((1 / 256,), (0,), 0, 255, torch.uint8)
_TANH = QParams((1 / 128,), (128,), 0, 255, torch.uint8)


@dataclass(frozen=True, slots=True)
class ProductKernels:
    """One engine's arithmetic of the ops with weights."""

    conv: Kernel
    conv_transpose: Kernel
    linear: Kernel

    def by_op(self) -> dict[OpOverload, Kernel]:
        """Every op with weights -> its kernel."""
        convs, transposed = dict.fromkeys(CONV, self.conv), dict.fromkeys(CONV_TRANSPOSE, self.conv_transpose)
        return {**convs, **transposed, aten.linear.default: self.linear}


def products(
    kernels: ProductKernels, transpose_road: Callable[[TransposedShape], TransposeRoad | str]
) -> dict[OpOverload, OpRule]:
    """Rules of the ops with weights; `transpose_road` says which transposed convolutions the engine gets right."""

    def takes(node: fx.Node) -> str | None:
        shape = weight_shape(node)
        if shape is None:
            return "its weight's shape is not known"
        found = transpose_road(TransposedShape.of(shape, bound_args(node)))
        return found if isinstance(found, str) else batched(node)

    transposed = OpRule(kernels.conv_transpose, weight=_WEIGHT_PER_TENSOR, fuses=_CLAMPS, check=takes)
    rows = {op: OpRule(kernels.conv, fuses=_CLAMPS, check=batched) for op in CONV}
    rows |= dict.fromkeys(CONV_TRANSPOSE, transposed)
    return rows | {aten.linear.default: OpRule(kernels.linear, fuses=_CLAMPS, check=matrix)}


def shared_rows() -> dict[OpOverload, OpRule]:
    """Rules of every other op, the same for all engines."""
    return {**_elementwise(), **_pools(), **_views()}


def weight_shape(node: fx.Node) -> tuple[int, ...] | None:
    """The shape of a convolution's weight, float or behind a dequantize node."""
    weight, gm = bound_args(node)["weight"], node.graph.owning_module
    source = weight.args[0] if is_dequantize(weight) else weight
    found = None if gm is None else constant(gm, source)
    return None if found is None else tuple(found.shape)


def output_size(node: fx.Node) -> tuple[int, ...] | None:
    """The spatial sizes of a convolution's result, where all of them are known."""
    shape = recorded_shape(node)
    sizes = shape[2:] if shape is not None else ()
    return sizes if sizes and all(isinstance(size, int) for size in sizes) else None


def _elementwise() -> dict[OpOverload, OpRule]:
    clamp = OpRule(arithmetic.clamp, shared=True)
    return {
        aten.add.Tensor: OpRule(arithmetic.add, tolerance=1, fuses=_CLAMPS, check=plain_sum),
        aten.mul.Tensor: OpRule(arithmetic.mul, fuses=_CLAMPS, check=two_tensors),
        aten.cat.default: OpRule(concat, shared=True),
        aten.relu.default: clamp,
        aten.hardtanh.default: clamp,
        aten.clamp.default: clamp,
        aten.clamp.Tensor: OpRule(unchanged, shared=True, check=unusable_bounds),
        aten.leaky_relu.default: OpRule(arithmetic.leaky_relu, tolerance=1),
        aten.hardswish.default: OpRule(arithmetic.elementwise(F.hardswish), tolerance=1),
        aten.hardsigmoid.default: OpRule(arithmetic.elementwise(F.hardsigmoid), tolerance=1, fixed=_UNIT),
        aten.sigmoid.default: OpRule(arithmetic.elementwise(torch.sigmoid), tolerance=1, fixed=_UNIT),
        aten.tanh.default: OpRule(arithmetic.elementwise(torch.tanh), tolerance=1, fixed=_TANH),
    }


def _pools() -> dict[OpOverload, OpRule]:
    def rule(kernel: Kernel, *checks: Support) -> OpRule:
        return OpRule(kernel, shared=True, check=all_of(*checks))

    padding = rule(arithmetic.pad, _constant_pad)
    return {
        aten.max_pool1d.default: rule(arithmetic.max_pool, rank(3)),
        aten.max_pool2d.default: rule(arithmetic.max_pool, rank(4)),
        aten.avg_pool2d.default: rule(arithmetic.average_pool, rank(4), _plain_divisor),
        aten.adaptive_avg_pool2d.default: rule(arithmetic.adaptive_average_pool, rank(4), _static),
        aten.mean.dim: OpRule(arithmetic.spatial_mean, check=all_of(rank(4), image_mean, _known_image)),
        aten.upsample_nearest2d.vec: rule(arithmetic.upsample_nearest, rank(4), _static),
        aten.pad.default: padding,
        aten.constant_pad_nd.default: padding,
    }


def _views() -> dict[OpOverload, OpRule]:
    def moved(op: Callable[..., Any], check: Support = always) -> OpRule:
        return OpRule(move(op), shared=True, check=check)

    def pieces(op: Callable[..., Any]) -> OpRule:
        return OpRule(piece(op), shared=True, check=_static)

    reshaped = OpRule(reshape, shared=True, check=_one_symbol)
    unbound = [aten.flatten.using_ints, aten.permute.default, aten.transpose.int, aten.unsqueeze.default]
    unbound += [aten.squeeze.dim, aten.squeeze.dims, aten.contiguous.default, aten.pixel_shuffle.default]
    bounded = (aten.slice.Tensor, aten.select.int, aten.expand.default)
    split = (aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default)
    return {
        aten.view.default: reshaped,
        aten.reshape.default: reshaped,
        **{op: moved(op) for op in unbound},
        **{op: moved(op, _static) for op in bounded},
        **{op: pieces(op) for op in split},
    }


def _known_image(node: fx.Node) -> str | None:
    shape = recorded_shape(node.args[0])
    known = shape is not None and all(isinstance(size, int) for size in shape[2:])
    return None if known else "its height and width are not known"


def _plain_divisor(node: fx.Node) -> str | None:
    return "divisor_override is set" if bound_args(node)["divisor_override"] is not None else None


def _constant_pad(node: fx.Node) -> str | None:
    args = bound_args(node)
    if args.get("mode", "constant") != "constant":
        return f"padding mode {args['mode']!r} has no integer kernel"
    return _static(node)


def _static(node: fx.Node) -> str | None:
    values = [value for argument in node.args[1:] for value in _items(argument)]
    return "a bound is symbolic" if any(isinstance(value, fx.Node) for value in values) else None


def _one_symbol(node: fx.Node) -> str | None:
    args: Mapping[str, Any] = bound_args(node)
    sizes = args["size"] if "size" in args else args["shape"]
    unknown = sum(isinstance(size, fx.Node) or size == -1 for size in sizes)
    return None if unknown <= 1 else "more than one size is symbolic"


def _items(argument: object) -> list[object]:
    return list(argument) if isinstance(argument, (list, tuple)) else [argument]
