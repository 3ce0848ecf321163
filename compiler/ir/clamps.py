"""Clamps by constant tensors: `clamp.Tensor(x, min, max)`, one bound for each channel.

The bounds are constants (or absent) that broadcast to the input's own shape, as [C, 1, 1] on images. Canonicalize
brings other spellings to this one; ReLU6 becomes relu and one of these where its channels are rescaled.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from .constants import constant
from .ops import aten, bound_args, clamp_bounds
from .qops import is_dequantize, is_quantize
from .shapes import tensor_meta


def is_clamp(node: fx.Node) -> bool:
    """Whether `node` only bounds its input: relu, hardtanh, clamp by numbers or by constant tensors."""
    if node.target is aten.clamp.Tensor:
        return unusable_bounds(node) is None
    return clamp_bounds(node) is not None


def tensor_bounds(node: fx.Node) -> tuple[Tensor | None, Tensor | None]:
    """(min, max) of a `clamp.Tensor`, float32; None where absent (or computed, see `unusable_bounds`)."""
    gm, args = node.graph.owning_module, bound_args(node)
    if gm is None:
        return None, None
    return constant(gm, args["min"]), constant(gm, args["max"])


def unusable_bounds(node: fx.Node) -> str | None:
    """Why a `clamp.Tensor` is not a clamp by constants that keeps shape and dtype of its input, or None."""
    args, bounds = bound_args(node), tensor_bounds(node)
    given = [bound for bound in bounds if bound is not None]
    if len(given) < sum(args[key] is not None for key in ("min", "max")):
        return "its bounds are computed, not constant"
    source = args["self"]
    while is_dequantize(source) or is_quantize(source):
        source = source.args[0]
    meta = tensor_meta(source)
    if meta is None:
        return "its input's shape is not known"
    if any(bound.dtype is not torch.float32 for bound in given):
        return "its bounds are not float32"
    return None if all(_broadcasts(bound, meta) for bound in given) else "its bounds widen its input's shape"


def _broadcasts(bound: Tensor, meta: Tensor) -> bool:
    """Whether `bound` broadcasts to the very shape of `meta`; a symbolic size is never compared with a number."""
    sizes = list(meta.shape)[meta.ndim - bound.ndim :] if bound.ndim <= meta.ndim else None
    return sizes is not None and all(
        wanted == 1 or (isinstance(size, int) and size == wanted)
        for wanted, size in zip(bound.shape, sizes, strict=True)
    )
