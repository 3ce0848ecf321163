"""Lowerings of convolutions, transposed convolutions, linear and matrix products.

One-dimensional convolutions are two-dimensional ones of height 1. A transposed convolution is a convolution whose
output channels are the stride's phases, rearranged and cropped (Shi et al., *Is the deconvolution layer the same
as a convolutional layer?* (2016)): the sums are the same, no output shape has to be computed at run time, and
groups are dense weights with zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

from ...compiler.ir.constants import constant
from ...compiler.ir.ops import OPS, aten, bound_args
from ...compiler.ir.qops import is_dequantize
from ...compiler.ir.sizes import shape
from ...compiler.quant.kernels import bias_scale, integer_bias
from ...compiler.quant.qparams import QParams
from .table import Call, lowerings
from .values import Value, aligned, channels_last, in_form, natural, read, reshape, same_memory
from .writer import Size, Tensor, Writer

SAME, VALID = 0, 1


@dataclass(frozen=True, slots=True)
class Weights:
    """Weight in the aten op's layout with its parameters (None in float), and a bias [out]."""

    weight: torch.Tensor
    qparams: QParams | None
    bias: torch.Tensor
    bias_qparams: QParams | None

    def stored(self, w: Writer, weight: torch.Tensor, axis: int, name: str) -> list[Tensor]:
        """Weight and bias as tensors; `weight` is in the operator's layout, its output channels on `axis`.

        One scale for the whole weight, or for each channel of a phase, is written out for every channel: XNNPACK
        takes no bias of several scales beside a weight of one.
        """
        qp = self.qparams
        if qp is not None:
            count = weight.shape[axis] // len(qp.scale)
            qp = QParams(qp.scale * count, qp.zero_point * count, *_range(qp), axis)
        bias = w.constant(self.bias, f"{name}/bias", self.bias_qparams)
        return [w.constant(weight, f"{name}/weight", qp), bias]


def weights_of(call: Call) -> Weights:
    step = call.step
    if step is None:
        weight, bias = call.stored("weight"), call.stored("bias")
        assert weight is not None
        groups = call.args.get("groups", 1) if OPS[call.node.target].out_axis == 1 else 1  # type: ignore[index]
        channels = weight.shape[OPS[call.node.target].out_axis] * groups  # type: ignore[index]
        return Weights(weight.float(), None, torch.zeros(channels) if bias is None else bias.float(), None)
    assert step.weight is not None
    assert step.weight_qparams is not None
    info = OPS[step.anchor.target]  # type: ignore[index]
    groups = step.attrs.get("groups", 1) if info.out_axis == 1 else 1
    channels = step.weight.shape[info.out_axis] * groups
    scales = bias_scale(step.in_qparams[0], step.weight_qparams).expand(channels).tolist()
    qp = QParams(tuple(scales), (0,) * channels, -(2**31), 2**31 - 1, torch.int32, 0)
    bias = torch.zeros(channels, dtype=torch.int32)
    if step.bias is not None:
        bias = integer_bias(step.bias, step.in_qparams[0], step.weight_qparams)
    return Weights(step.weight.to(torch.int8), step.weight_qparams, bias, qp)


def _constant_weight(node: fx.Node) -> str | None:
    args, gm = bound_args(node), node.graph.owning_module
    for key in ("weight", "bias"):
        source = args[key].args[0] if is_dequantize(args[key]) else args[key]
        if source is not None and (gm is None or constant(gm, source) is None):
            return f"its {key} is computed, not constant"
    return None


def _static_space(node: fx.Node) -> str | None:
    sizes = [*shape(node.args[0])[1:], *shape(node)[1:]]
    return None if all(isinstance(size, int) for size in sizes) else "a spatial axis has a symbolic size"


def convolution_reason(node: fx.Node) -> str | None:
    if (reason := _constant_weight(node) or _static_space(node)) is not None:
        return reason
    return "the input has no batch axis" if len(shape(node.args[0])) != len(shape(node.args[1])) else None


@lowerings.op(
    aten.conv1d.default, aten.conv2d.default, aten.conv1d.padding, aten.conv2d.padding, check=convolution_reason
)
def conv(w: Writer, call: Call) -> Value:
    found, spatial = weights_of(call), call.value("input").rank - 2
    weight = found.weight if spatial == 2 else found.weight.unsqueeze(2)
    dilation = _planar(call.args["dilation"], spatial)
    lead, stride = _pads(call, weight, dilation, spatial), _planar(call.args["stride"], spatial)
    source = image(w, call.value("input"))
    sizes = image_sizes(call.sizes)
    made = convolved(w, call, source, found, weight, stride, lead, dilation, sizes)
    return _from_image(w, call, made)


def image(w: Writer, value: Value) -> Tensor:
    """[batch, channels, (length | height, width)] as [batch, height, width, channels]."""
    tensor = read(w, value, channels_last(value.rank))
    return tensor if value.rank == 4 else reshape(w, tensor, image_sizes(value.sizes))


def image_sizes(sizes: Sequence[Size]) -> tuple[Size, ...]:
    """Sizes in torch's order, of rank 3 or 4, as an image's with channels last."""
    return (sizes[0], *([1] if len(sizes) == 3 else []), *sizes[2:], sizes[1])


def _from_image(w: Writer, call: Call, made: Tensor) -> Value:
    form = channels_last(len(call.sizes))
    return call.result(reshape(w, made, in_form(call.sizes, form)), form)


def _planar(value: int | Sequence[int], spatial: int) -> list[int]:
    """One number for height and one for width."""
    values = spread(value, spatial)
    return values if spatial == 2 else [1, *values]


def _pads(call: Call, weight: torch.Tensor, dilation: Sequence[int], spatial: int) -> list[int]:
    """Zeros in front of height and width."""
    padding = call.args["padding"]
    if padding == "same":
        return [d * (k - 1) // 2 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    if padding == "valid":
        return [0, 0]
    found = spread(padding, spatial)
    return found if spatial == 2 else [0, *found]


def convolved(
    w: Writer,
    call: Call,
    source: Tensor,
    found: Weights,
    weight: torch.Tensor,
    stride: Sequence[int],
    lead: Sequence[int],
    dilation: Sequence[int],
    sizes: Sequence[Size],
) -> Tensor:
    """A two-dimensional convolution of an image; `sizes` are the result's, channels last."""
    reach = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    source, padding = padded(w, source, reach, stride, lead, [int(size) for size in sizes[1:3]])
    channels = int(source.shape[3])
    depthwise = weight.shape[1] == 1 and channels > 1
    layout = weight.permute(1, 2, 3, 0) if depthwise else weight.permute(0, 2, 3, 1)
    options: dict[str, Any] = {
        "padding": padding,
        "strideH": stride[0],
        "strideW": stride[1],
        "dilationHFactor": dilation[0],
        "dilationWFactor": dilation[1],
        "fusedActivationFunction": call.activation,
    }
    if depthwise:
        options["depthMultiplier"] = weight.shape[0] // channels
    operands = [source, *found.stored(w, layout, 3 if depthwise else 0, call.node.name)]
    code = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    return w.op(code, operands, sizes, _inner(call, sizes), qparams=call.qparams, **options)


def _inner(call: Call, sizes: Sequence[Size]) -> str:
    """The name of an image that still has to get the result's rank."""
    return call.name if len(sizes) == len(call.sizes) else f"{call.name}/image"


def padded(
    w: Writer, source: Tensor, reach: Sequence[int], stride: Sequence[int], lead: Sequence[int], out: Sequence[int]
) -> tuple[Tensor, int]:
    """The image with the zeros that windows of `reach` need, and the operator's own padding.

    TFLite's SAME puts the smaller half in front; other paddings are a Pad of their own, which XNNPACK folds into
    the convolution.
    """
    inner = [int(size) for size in source.shape[1:3]]
    total = [(o - 1) * s + r - n for n, o, s, r in zip(inner, out, stride, reach, strict=True)]
    pads = [(p, max(t - p, 0)) for p, t in zip(lead, total, strict=True)]
    if all(pad == (0, 0) for pad in pads):
        return source, VALID
    same = all(
        o == -(-n // s) and pad == (max(t, 0) // 2, max(t, 0) - max(t, 0) // 2)
        for n, o, s, t, pad in zip(inner, out, stride, total, pads, strict=True)
    )
    if same:
        return source, SAME
    sizes = (source.shape[0], *(n + sum(pad) for n, pad in zip(inner, pads, strict=True)), source.shape[3])
    table = torch.tensor([(0, 0), *pads, (0, 0)], dtype=torch.int32)
    name = f"{w.scope}/padded"
    return w.op("PAD", [source, w.constant(table)], sizes, name, qparams=source.qparams), VALID


@lowerings.op(aten.conv_transpose1d.default, aten.conv_transpose2d.input, check=convolution_reason)
def conv_transpose(w: Writer, call: Call) -> Value:
    found, x = weights_of(call), call.value("input")
    spatial = x.rank - 2
    weight = found.weight if spatial == 2 else found.weight.unsqueeze(2)
    stride, lead = _planar(call.args["stride"], spatial), spread(call.args["padding"], spatial)
    lead = lead if spatial == 2 else [0, *lead]
    spaced = _dilated(weight, _planar(call.args["dilation"], spatial))
    phases, taps = phase_weight(spaced, stride, call.args["groups"])
    out = [int(size) for size in image_sizes(call.sizes)[1:3]]
    source = image(w, x)
    inner = [int(size) for size in source.shape[1:3]]
    steps = [
        max(n + k - 1, -(-(p + o) // s)) for n, k, p, o, s in zip(inner, taps, lead, out, stride, strict=True)
    ]
    count = math.prod(stride)
    sizes = (source.shape[0], *steps, phases.shape[0])
    more = _repeated(found, count)
    front = [k - 1 for k in taps]
    made = convolved(w, call, source, more, phases, [1, 1], front, [1, 1], sizes)
    wide = _phases_to_space(w, made, stride, steps, phases.shape[0] // count)
    return _from_image(w, call, _cropped(w, wide, lead, out))


def _dilated(weight: torch.Tensor, dilation: Sequence[int]) -> torch.Tensor:
    """The kernel with the zeros between its taps written out."""
    sizes = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    spaced = weight.new_zeros((*weight.shape[:2], *sizes))
    spaced[:, :, :: dilation[0], :: dilation[1]] = weight
    return spaced


def phase_weight(weight: torch.Tensor, stride: Sequence[int], groups: int) -> tuple[torch.Tensor, list[int]]:
    """[in, out / groups, height, width] of a transposed conv -> [phases · out, in, *taps] of a conv.

    Along one axis, y[q·s + r] = sum over m of x[q - m] · w[m·s + r]: the taps of phase r are every s-th weight,
    flipped, zeros where the kernel ends first.
    """
    channels, each = weight.shape[0], weight.shape[1]
    taps = [-(-k // s) for k, s in zip(weight.shape[2:], stride, strict=True)]
    gaps = [k * s - n for k, s, n in zip(taps, stride, weight.shape[2:], strict=True)]
    full = F.pad(weight, [side for gap in reversed(gaps) for side in (0, gap)])
    dense = full.new_zeros((channels, groups * each, *full.shape[2:]))
    for group in range(groups):
        rows = slice(group * channels // groups, (group + 1) * channels // groups)
        dense[rows, group * each : (group + 1) * each] = full[rows]
    split = dense.reshape(channels, groups * each, taps[0], stride[0], taps[1], stride[1])
    flat = split.permute(3, 5, 1, 0, 2, 4).reshape(-1, channels, *taps)
    return flat.flip([2, 3]).contiguous(), taps


def _repeated(found: Weights, count: int) -> Weights:
    """The bias of every phase: [phases · out]."""
    bias_qp = found.bias_qparams
    if bias_qp is not None:
        bias_qp = QParams(bias_qp.scale * count, bias_qp.zero_point * count, *_range(bias_qp), 0)
    return Weights(found.weight, found.qparams, found.bias.repeat(count), bias_qp)


def _range(qp: QParams) -> tuple[int, int, torch.dtype]:
    return qp.qmin, qp.qmax, qp.dtype


def _phases_to_space(
    w: Writer, made: Tensor, stride: Sequence[int], steps: Sequence[int], channels: int
) -> Tensor:
    """[batch, *steps, phases · channels] -> [batch, *(steps · stride), channels]."""
    sizes = (made.shape[0], *(n * s for n, s in zip(steps, stride, strict=True)), channels)
    if math.prod(stride) == 1:
        return made
    if stride[0] == stride[1]:
        return w.op("DEPTH_TO_SPACE", [made], sizes, qparams=made.qparams, blockSize=stride[0])
    if stride[0] == 1:
        return reshape(w, made, sizes)
    split = reshape(w, made, (made.shape[0], steps[0], steps[1], stride[0], stride[1] * channels))
    turned = (made.shape[0], steps[0], stride[0], steps[1], stride[1] * channels)
    woven = w.op("TRANSPOSE", [split, w.ints([0, 1, 3, 2, 4])], turned, qparams=made.qparams)
    return reshape(w, woven, sizes)


def _cropped(w: Writer, wide: Tensor, lead: Sequence[int], out: Sequence[int]) -> Tensor:
    sizes = (wide.shape[0], *out, wide.shape[3])
    if sizes == wide.shape:
        return wide
    ends = [p + size for p, size in zip(lead, out, strict=True)]
    operands = [wide, w.ints([0, *lead, 0]), w.ints([0, *ends, 0]), w.ints([1] * 4)]
    return w.op("STRIDED_SLICE", operands, sizes, qparams=wide.qparams, beginMask=0b1001, endMask=0b1001)


def _linear(node: fx.Node) -> str | None:
    return "the input is a vector" if len(shape(node.args[0])) < 2 else None


@lowerings.op(aten.linear.default, check=_linear)
def linear(w: Writer, call: Call) -> Value:
    """Behind a flattened image the weight's columns follow the image's own order of axes."""
    x = call.value("input")
    if call.step is None and any(_is_computed(call.args[key]) for key in ("weight", "bias")):
        operands = [read(w, value) for value in call.args.values() if isinstance(value, Value)]
        return call.result(w.op("FULLY_CONNECTED", operands, call.sizes, call.name, keepNumDims=x.rank > 2))
    found = weights_of(call)
    weight, source = found.weight, x.flattened
    pixels = call.step is not None and _fits_an_image(x.sizes)
    sizes = _as_image(x.sizes) if pixels else x.sizes
    if source is not None and not x.forms and same_memory(source) is None and source.preferred()[0] == 0:
        form = source.preferred()
        axes = [int(size) for size in source.sizes[1:]]
        weight = weight.reshape(-1, *axes).permute(form).reshape(weight.shape)
        rows = read(w, source, form)
    else:
        rows = read(w, x)
    rows = reshape(w, rows, sizes, f"{call.node.name}/rows")
    if pixels:
        return call.result(_pointwise(w, call, rows, found, weight))
    operands = [rows, *found.stored(w, weight.contiguous(), 0, call.node.name)]
    keep = len(call.sizes) > 2
    options: dict[str, Any] = {"keepNumDims": keep, "fusedActivationFunction": call.activation}
    made = w.op("FULLY_CONNECTED", operands, call.sizes, call.name, qparams=call.qparams, **options)
    return call.result(made)


def _fits_an_image(sizes: Sequence[Size]) -> bool:
    """Whether a Reshape gives [..., in] two spatial axes."""
    return len(sizes) <= 4 and sum(isinstance(size, str) for size in sizes) <= 1


def _as_image(sizes: Sequence[Size]) -> tuple[Size, ...]:
    """[batch, ..., in] with two axes between."""
    return (*sizes[:-1], *(1,) * (4 - len(sizes)), sizes[-1])


def _pointwise(w: Writer, call: Call, pixels: Tensor, found: Weights, weight: torch.Tensor) -> Tensor:
    """The product as a convolution of single pixels: runtimes before 2.17 (tflite-runtime) know no FULLY_CONNECTED
    with a scale for each channel, and XNNPACK computes both by the same kernels."""
    operands = [pixels, *found.stored(w, weight[:, None, None].contiguous(), 0, call.node.name)]
    options: dict[str, Any] = dict.fromkeys(("strideH", "strideW", "dilationHFactor", "dilationWFactor"), 1)
    options |= {"padding": VALID, "fusedActivationFunction": call.activation}
    sizes = _as_image(call.sizes)
    made = w.op("CONV_2D", operands, sizes, _inner(call, sizes), qparams=call.qparams, **options)
    return reshape(w, made, call.sizes, call.name)


def _is_computed(value: object) -> bool:
    return isinstance(value, Value) and value.stored is None


def _matrices(node: fx.Node) -> str | None:
    return None if all(len(shape(arg)) >= 2 for arg in node.args[:2]) else "an operand is a vector"


@lowerings.op(aten.matmul.default, aten.mm.default, aten.bmm.default, check=_matrices)
def matmul(w: Writer, call: Call) -> Value:
    left, right = call.value("self"), call.value("other" if "other" in call.args else "mat2")
    tensors, turned = [], []
    for value in (left, right):
        swapped = (*natural(value.rank)[:-2], value.rank - 1, value.rank - 2)
        adjoint = value is right and value.stored is None and value.preferred() == swapped
        turned.append(adjoint)
        tensors.append(read(w, value, swapped) if adjoint else _matrix(w, value))
    options: dict[str, Any] = {"adjX": turned[0], "adjY": turned[1]}
    made = w.op("BATCH_MATMUL", tensors, call.sizes, call.name, qparams=call.qparams, **options)
    return call.result(made)


def _matrix(w: Writer, value: Value) -> Tensor:
    return aligned(w, value, natural(value.rank))


@lowerings.op(aten.scaled_dot_product_attention.default)
def attention(w: Writer, call: Call) -> Value:
    """softmax(q · kᵀ · scale + mask) · v"""
    query, key, value = (call.value(name) for name in ("query", "key", "value"))
    scale = call.args["scale"] or 1 / math.sqrt(float(query.sizes[-1]))
    sizes = (*query.sizes[:-1], key.sizes[-2])
    scaled = w.op("MUL", [read(w, query), w.number(scale)], query.sizes)
    scores = w.op("BATCH_MATMUL", [scaled, read(w, key)], sizes, adjY=True)
    if isinstance(call.args["attn_mask"], Value):
        mask = aligned(w, call.args["attn_mask"], natural(len(sizes)))
        if mask.dtype is torch.bool:
            scores = w.op("SELECT_V2", [mask, scores, w.number(-3e38)], sizes, dtype=torch.float32)
        else:
            scores = w.op("ADD", [scores, mask], sizes)
    shares = w.op("SOFTMAX", [scores], sizes, beta=1.0)
    made = w.op("BATCH_MATMUL", [shares, read(w, value)], call.sizes, call.name)
    return call.result(made)


def spread(value: int | Sequence[int], axes: int) -> list[int]:
    """One number for each spatial axis."""
    values = [value] if isinstance(value, int) else list(value)
    return values * axes if len(values) == 1 else values
