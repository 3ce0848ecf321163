"""Float ops in the form that XNNPACK or one of ExecuTorch's portable kernels takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from ...compiler.ir.constants import constant
from ...compiler.ir.ops import aten, bound_args
from ...compiler.ir.qops import is_dequantize
from ...compiler.ir.shapes import recorded_shape, tensor_meta
from .emit_steps import RESHAPES, normal_form, reshaped_sizes

if TYPE_CHECKING:
    from .graph import Builder

_WITH_NUMBER = frozenset({aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor})
_CONVOLUTIONS_1D = {
    aten.conv1d.default: aten.conv2d.default,
    aten.conv_transpose1d.default: aten.conv_transpose2d.input,
}


def float_call(builder: Builder, node: fx.Node) -> fx.Node | None:
    """A float op in the form that XNNPACK or a portable kernel takes; None for aten's own."""
    if node.target in RESHAPES and (sizes := reshaped_sizes(node)) is not None:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        return builder.call(aten.reshape.default, builder.read(source), sizes)
    if (sizes := _sizes_without_space(node)) is not None:  # XNNPACK's mean keeps the axes
        source = node.args[0]
        assert isinstance(source, fx.Node)
        mean = builder.call(aten.mean.dim, builder.read(source), [2, 3], True)
        return builder.call(aten.view.default, mean, sizes)
    if node.target in _WITH_NUMBER and type(node.args[1]) is int and _is_float(node):
        # as an int64 constant it would be converted by a portable kernel
        return builder.call(node.target, builder.read(node.args[0]), float(node.args[1]))  # type: ignore[arg-type]
    if node.target in _CONVOLUTIONS_1D and is_dequantize(node.args[0]):
        return _as_image(builder, node)
    if node.target in _ON_VOLUMES and _is_volume(node):
        return _ON_VOLUMES[node.target](builder, node)
    return None


def _as_image(builder: Builder, node: fx.Node) -> fx.Node | None:
    """A float convolution over one axis as one over two: of the former XNNPACK's compiler takes the input for int8
    where that was dequantized. None where the weight is computed, which XNNPACK takes in neither form."""
    args = bound_args(node)
    if (weight := constant(builder.gm, args["weight"])) is None:
        return None
    source = builder.call(aten.unsqueeze.default, builder.read(args["input"]), -1)
    bias = None if args["bias"] is None else builder.read(args["bias"])
    settings = {name: value for name, value in args.items() if name not in ("input", "weight", "bias")}
    added = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0}
    widened = [[*value, added[name]] if name in added else value for name, value in settings.items()]
    operands = source, builder.store(weight.unsqueeze(-1)), bias
    image = normal_form(builder.call(_CONVOLUTIONS_1D[node.target], *operands, *widened))  # type: ignore[index]
    return builder.call(aten.squeeze.dim, image, -1)


def _is_volume(node: fx.Node) -> bool:
    shape = recorded_shape(node.args[0])
    return shape is not None and len(shape) == 5 and all(isinstance(size, int) for size in shape[1:])


def _pool_in_two(builder: Builder, node: fx.Node) -> fx.Node:
    """A pool over a volume, for which there is no kernel, as one over height and width and one over depth."""
    args, shape, pooled = bound_args(node), _sizes(node.args[0]), _sizes(node)
    kernel, padding, dilation = (_three(args[name]) for name in ("kernel_size", "padding", "dilation"))
    windows = kernel, _three(args["stride"] or kernel), padding, dilation
    value = builder.call(aten.reshape.default, builder.read(args["self"]), [-1, shape[1] * shape[2], *shape[3:]])
    flat = [window[1:] for window in windows]
    value = builder.call(aten.max_pool2d.default, value, *flat, args["ceil_mode"])
    value = builder.call(aten.reshape.default, value, [-1, shape[1], shape[2], pooled[3] * pooled[4]])
    deep = [[window[0], still] for window, still in zip(windows, (1, 1, 0, 1), strict=True)]
    value = builder.call(aten.max_pool2d.default, value, *deep, args["ceil_mode"])
    return builder.call(aten.reshape.default, value, [-1, *pooled[1:]])


def _convolve_by_depth(builder: Builder, node: fx.Node) -> fx.Node | None:
    """A convolution over a volume, for which there is no kernel, as a sum over the depth of its weight: each part
    convolves images, the depth of the volume beside the batch. None where the weight is computed."""
    args, shape, made = bound_args(node), _sizes(node.args[0]), _sizes(node)
    if (weight := constant(builder.gm, args["weight"])) is None:
        return None
    stride, padding, dilation = (_three(args[name]) for name in ("stride", "padding", "dilation"))
    slices = builder.call(aten.permute_copy.default, builder.read(args["input"]), _DEPTH_FIRST)
    slices = builder.call(aten.constant_pad_nd.default, slices, [0, 0, 0, 0, 0, 0, padding[0], padding[0]])
    total = None
    for depth in range(weight.shape[2]):
        first = depth * dilation[0]
        last = first + (made[2] - 1) * stride[0]
        met = builder.call(aten.slice_copy.Tensor, slices, 1, first, last + 1, stride[0])
        images = builder.call(aten.reshape.default, met, [-1, shape[1], *shape[3:]])
        bias = builder.read(args["bias"]) if depth == 0 and args["bias"] is not None else None
        operands = images, builder.store(weight[:, :, depth].contiguous()), bias
        geometry = stride[1:], padding[1:], dilation[1:], args["groups"]
        part = normal_form(builder.call(aten.conv2d.default, *operands, *geometry))
        total = part if total is None else builder.call(aten.add.Tensor, total, part)
    stacked = builder.call(aten.reshape.default, total, [-1, made[2], made[1], *made[3:]])
    return builder.call(aten.permute_copy.default, stacked, _DEPTH_FIRST)


# Batch, depth, channels, height, width; its own inverse.
_DEPTH_FIRST = [0, 2, 1, 3, 4]
_ON_VOLUMES = {aten.max_pool3d.default: _pool_in_two, aten.conv3d.default: _convolve_by_depth}


def _sizes(node: Any) -> Any:
    shape = recorded_shape(node)
    assert shape is not None
    return shape


def _three(sizes: Any) -> list[int]:
    values = [sizes] if isinstance(sizes, int) else list(sizes)
    return values * 3 if len(values) == 1 else values


def _sizes_without_space(node: fx.Node) -> list[Any] | None:
    """The sizes of a mean over height and width that keeps neither; None for any other node."""
    if node.target is not aten.mean.dim:
        return None
    args, shape = bound_args(node), recorded_shape(node.args[0])
    if shape is None or len(shape) != 4 or args["keepdim"] or args["dtype"] is not None:
        return None
    return reshaped_sizes(node) if sorted(axis % 4 for axis in args["dim"] or ()) == [2, 3] else None


def _is_float(node: fx.Node) -> bool:
    meta = tensor_meta(node)
    return meta is not None and meta.dtype is torch.float32 and isinstance(node.args[0], fx.Node)
