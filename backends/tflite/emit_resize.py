"""Lowerings of resizing: TFLite's own operators where they mean the same, else a constant matrix for each axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor as Torch
from torch import fx

from ...compiler.ir.ops import aten, bound_args
from ...compiler.ir.sizes import shape
from .emit_pools import whole_factors
from .emit_products import image, image_sizes
from .table import Call, lowerings
from .values import Value, channels_last, in_form, read, reshape
from .writer import Tensor, Writer


def _static_sizes(node: fx.Node) -> str | None:
    sizes = [*shape(node.args[0])[1:], *shape(node)[1:]]
    return None if all(isinstance(size, int) for size in sizes) else "a size is symbolic"


@lowerings.op(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, check=_static_sizes)
def nearest(w: Writer, call: Call) -> Value:
    if whole_factors(call.node) is not None:
        return _by_matrices(w, call)
    return _resized(w, call, "RESIZE_NEAREST_NEIGHBOR", alignCorners=False, halfPixelCenters=False)


@lowerings.op(aten.upsample_linear1d.vec, aten.upsample_bilinear2d.vec, check=_static_sizes)
def linear(w: Writer, call: Call) -> Value:
    """By scale factors PyTorch uses these instead of the sizes' ratio, which may differ."""
    sizes = list(zip(call.value("input").sizes[2:], call.sizes[2:], strict=True))
    factors = call.args["scale_factors"] or [1.0] * len(sizes)
    given = call.args["scale_factors"] is not None
    aligned = bool(call.args["align_corners"])
    differ = given and any(int(n) * f != int(o) for (n, o), f in zip(sizes, factors, strict=True))
    if differ and not aligned:
        return _by_matrices(w, call)
    return _resized(w, call, "RESIZE_BILINEAR", alignCorners=aligned, halfPixelCenters=not aligned)


@lowerings.op(
    aten._upsample_nearest_exact1d.vec,
    aten._upsample_nearest_exact2d.vec,
    aten._upsample_nearest_exact3d.vec,
    aten.upsample_nearest3d.vec,
    aten.upsample_bicubic2d.vec,
    aten.upsample_trilinear3d.vec,
    check=_static_sizes,
)
def separable(w: Writer, call: Call) -> Value:
    return _by_matrices(w, call)


def _resized(w: Writer, call: Call, code: str, **options: Any) -> Value:
    x = call.value("input")
    sizes = image_sizes(call.sizes)
    operands = [image(w, x), w.ints([int(size) for size in sizes[1:3]])]
    name = call.name if x.rank == 4 else None
    made = w.op(code, operands, sizes, name, qparams=call.qparams, **options)
    form = channels_last(x.rank)
    return call.result(reshape(w, made, in_form(call.sizes, form), call.name), form)


def _by_matrices(w: Writer, call: Call) -> Value:
    """Along each spatial axis, a product with the matrix that the op itself makes of the unit vectors."""
    x = call.value("input")
    value, sizes = x, list(x.sizes)
    for axis in range(2, x.rank):
        matrix = _matrix(call, axis)
        form = (*(place for place in range(x.rank) if place != axis), axis)
        tensor = read(w, value, form)
        sizes[axis] = call.sizes[axis]
        made = _product(w, tensor, matrix)
        value = Value(tuple(sizes), torch.float32, None, made.name, {form: made})
    return value


def _product(w: Writer, tensor: Tensor, matrix: Torch) -> Tensor:
    operands = [tensor, w.constant(matrix), w.constant(torch.zeros(matrix.shape[0]))]
    return w.op("FULLY_CONNECTED", operands, (*tensor.shape[:-1], matrix.shape[0]), keepNumDims=True)


def _matrix(call: Call, axis: int) -> Torch:
    """[out, in]: the op along `axis`, read off the unit vectors."""
    args = bound_args(call.node)
    rank, size = call.value("input").rank, int(call.value("input").sizes[axis])
    op: Callable[..., Torch] = call.node.target  # type: ignore[assignment]
    shape_in = [1] * rank
    shape_in[0], shape_in[axis] = size, size
    units = torch.eye(size).reshape(shape_in)
    out = [1] * (rank - 2)
    out[axis - 2] = int(call.sizes[axis])
    factors = args["scale_factors"]
    given = {key: value for key, value in args.items() if key not in ("input", "output_size", "scale_factors")}
    if factors is None:
        columns = op(units, out, *given.values(), None)
    else:
        scales = [1.0] * (rank - 2)
        scales[axis - 2] = factors[axis - 2]
        columns = op(units, None, *given.values(), scales)
    return columns.reshape(size, -1).t().contiguous()
