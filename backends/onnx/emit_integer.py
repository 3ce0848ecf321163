"""Integer steps whose ONNX form differs from `dequantize -> float lowering -> quantize`.

Each writes up to the integers before the step's Clip, or returns None for the ordinary form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...compiler.ir.ops import aten, clamp_bounds
from ...compiler.ir.sizes import Size, shape
from ...compiler.quant.kernels import as_integer
from ...compiler.quant.program import IntegerStep
from ...compiler.quant.qparams import quantize
from .arithmetic import GATE, HALF, sixth
from .emit_pools import onnx_pads, pad_mode
from .emit_products import spread
from .emit_views import split_sizes
from .writer import Writer

if TYPE_CHECKING:
    from .emit import Emitter

# Fewer channels than this are a short row to broadcast.
_SHORT_ROW = 256

IntegerLowering = Callable[["Emitter", IntegerStep], "str | None"]


def conv_transpose(emitter: Emitter, step: IntegerStep) -> str:
    """A convolution whose output channels are the stride's phases, rearranged and cropped on the integers.

    Along one axis, y[q·s + r] = sum over m of x[q - m] · w[m·s + r]: the taps of phase r are every s-th weight,
    flipped, zeros where the kernel ends first. onnxruntime has no integer ConvTranspose, but every piece of this
    has an integer kernel and the sums are the same. (Shi et al., *Is the deconvolution layer the same as a
    convolutional layer?* (2016).)
    """
    assert step.weight is not None
    w, name, attrs = emitter.writer, step.anchor.name, step.attrs
    w.scope = name
    spatial = step.weight.ndim - 2
    stride, padding = spread(attrs["stride"], spatial), spread(attrs["padding"], spatial)
    weight, taps = phase_weight(step.weight, stride, attrs["groups"])
    sizes = [[int(n) for n in shape(node)[2:]] for node in (step.anchor.args[0], step.anchor)]
    # Positions that the crop reaches past the ordinary end, where the output padding asks for them.
    more = [
        max(-(-(p + out) // s) - (n + k - 1), 0)
        for p, out, s, n, k in zip(padding, sizes[1], stride, sizes[0], taps, strict=True)
    ]
    pads = [k - 1 for k in taps] + [k - 1 + e for k, e in zip(taps, more, strict=True)]
    operands = emitter.phase_operands(step, weight, math.prod(stride))
    phases = w.op("Conv", operands, name, kernel_shape=taps, pads=pads, group=attrs["groups"])
    integers = emitter.quantize(phases, step.out_qparams, f"{name}/quantized")
    steps = [n + k - 1 + e for n, k, e in zip(sizes[0], taps, more, strict=True)]
    spaced = _phases_to_space(w, integers, stride, steps)
    ends = [p + out for p, out in zip(padding, sizes[1], strict=True)]
    axes = list(range(2, spatial + 2))
    return w.op("Slice", [spaced, w.ints(padding), w.ints(ends), w.ints(axes)], emitter.inner_name(step))


def phase_weight(weight: Tensor, stride: Sequence[int], groups: int) -> tuple[Tensor, list[int]]:
    """[in, out / groups, *kernel] of a transposed conv -> [out · phases, in / groups, *taps] of a conv."""
    spatial = weight.ndim - 2
    taps = [-(-k // s) for k, s in zip(weight.shape[2:], stride, strict=True)]
    gaps = [k * s - n for k, s, n in zip(taps, stride, weight.shape[2:], strict=True)]
    padded = F.pad(weight, [side for gap in reversed(gaps) for side in (0, gap)])
    sizes = [size for pair in zip(taps, stride, strict=True) for size in pair]
    split = padded.reshape(groups, weight.shape[0] // groups, weight.shape[1], *sizes)
    phases, along = [4 + 2 * i for i in range(spatial)], [3 + 2 * i for i in range(spatial)]
    ordered = split.permute(0, 2, *phases, 1, *along)
    flat = ordered.reshape(-1, weight.shape[0] // groups, *taps)
    return flat.flip(list(range(2, spatial + 2))).contiguous(), taps


def _phases_to_space(w: Writer, integers: str, stride: Sequence[int], steps: Sequence[int]) -> str:
    """[batch, out · phases, *steps] -> [batch, out, *(steps · stride)]."""
    spatial = len(stride)
    split = w.op("Reshape", [integers, w.ints([0, -1, *stride, *steps])], f"{w.scope}/phases")
    pairs = [axis for i in range(spatial) for axis in (2 + spatial + i, 2 + i)]
    woven = w.op("Transpose", [split], perm=[0, 1, *pairs])
    sizes = [n * s for n, s in zip(steps, stride, strict=True)]
    return w.op("Reshape", [woven, w.ints([0, -1, *sizes])], f"{w.scope}/spaced")


def linear(emitter: Emitter, step: IntegerStep) -> str | None:
    """Rank 3 and more: onnxruntime fuses a matrix with bias only, so the integers are reshaped around it."""
    sizes = shape(step.anchor)
    if len(sizes) == 2:
        return None
    assert step.weight is not None
    w, name = emitter.writer, step.anchor.name
    w.scope = name
    rows = w.op("Reshape", [_input(emitter, step), w.ints([-1, step.weight.shape[1]])], f"{name}/rows")
    operands = emitter.product_operands(step, rows)
    product = w.op("Gemm", operands, name, transB=1)
    integers = emitter.quantize(product, step.out_qparams, f"{name}/quantized")
    return w.op("Reshape", [integers, _rows_apart(emitter, step, sizes)], emitter.inner_name(step))


def _rows_apart(emitter: Emitter, step: IntegerStep, sizes: Sequence[Size]) -> str:
    """The shape that rows are given back: `sizes`, read from the input where several of them are symbolic."""
    w = emitter.writer
    if sum(not isinstance(size, int) for size in sizes) <= 1:
        return w.ints([size if isinstance(size, int) else -1 for size in sizes])
    before = w.op("Shape", [_input(emitter, step)], f"{step.anchor.name}/sizes", end=len(sizes) - 1)
    return w.op("Concat", [before, w.ints([-1])], f"{step.anchor.name}/shape", axis=0)


def clamp(emitter: Emitter, step: IntegerStep) -> str | None:
    """With a lower bound of 0, LeakyRelu of slope 0: it has an integer kernel, Relu and Clip have none."""
    bounds = clamp_bounds(step.anchor)
    assert bounds is not None
    if bounds[0] != 0.0:
        return None
    w, name = emitter.writer, step.anchor.name
    w.scope = name
    source = emitter.dequantize(_input(emitter, step), step.in_qparams[0], f"{name}/dequantized")
    positive = w.op("LeakyRelu", [source], name, alpha=0.0)
    high = min(int(quantize(torch.tensor([bounds[1]]), step.out_qparams)), step.out_qparams.qmax)
    if math.isinf(bounds[1]) or high == step.out_qparams.qmax:
        return emitter.quantize(positive, step.out_qparams, emitter.inner_name(step))
    integers = emitter.quantize(positive, step.out_qparams, f"{name}/unbounded")
    limits = [w.scalar(bound, step.out_qparams.dtype) for bound in (step.out_qparams.qmin, high)]
    return w.op("Clip", [integers, *limits], emitter.inner_name(step))


def hardsigmoid(emitter: Emitter, step: IntegerStep) -> str | None:
    """x / 6 + 0.5, clamped to [0, 1] by saturation: QLinearAdd."""
    if step.out_qparams != GATE:
        return None
    return _hard_gate(emitter, step, step.anchor.name, emitter.inner_name(step))


def hardswish(emitter: Emitter, step: IntegerStep) -> str:
    """x times its hard-sigmoid, on integers: QLinearAdd and QLinearMul."""
    return _gated(emitter, step, _hard_gate(emitter, step, f"{step.anchor.name}/add", f"{step.anchor.name}/gate"))


def silu(emitter: Emitter, step: IntegerStep) -> str:
    """x times its sigmoid, on integers: QLinearSigmoid and QLinearMul."""
    w, name = emitter.writer, step.anchor.name
    source = emitter.dequantize(_input(emitter, step), step.in_qparams[0], f"{name}/dequantized")
    sigmoid = w.op("Sigmoid", [source], f"{name}/sigmoid")
    return _gated(emitter, step, emitter.quantize(sigmoid, GATE, f"{name}/gate"))


def _hard_gate(emitter: Emitter, step: IntegerStep, name: str, out: str) -> str:
    """The integers of hard-sigmoid(x), parameters GATE."""
    w = emitter.writer
    source = emitter.dequantize(_input(emitter, step), sixth(step.in_qparams[0]), f"{name}/sixth")
    half = emitter.dequantize(w.scalar(255, torch.uint8), HALF, f"{name}/half")
    return emitter.quantize(w.op("Add", [source, half], name), GATE, out)


def _gated(emitter: Emitter, step: IntegerStep, gate: str) -> str:
    """Input times gate."""
    name = step.anchor.name
    source = emitter.dequantize(_input(emitter, step), step.in_qparams[0], f"{name}/input")
    product = emitter.writer.op("Mul", [source, emitter.dequantize(gate, GATE, f"{name}/by")], name)
    return emitter.quantize(product, step.out_qparams, emitter.inner_name(step))


def mean(emitter: Emitter, step: IntegerStep) -> str | None:
    """Without keepdim, the integers of the global average lose their axes after quantization."""
    if step.attrs["keepdim"]:
        return None
    w, name = emitter.writer, step.anchor.name
    source = emitter.dequantize(_input(emitter, step), step.in_qparams[0], f"{name}/dequantized")
    average = w.op("GlobalAveragePool", [source], name)
    integers = emitter.quantize(average, step.out_qparams, f"{name}/quantized")
    axes = list(range(2, len(shape(step.anchor.args[0]))))
    return w.op("Squeeze", [integers, w.ints(axes)], emitter.inner_name(step))


def pad(emitter: Emitter, step: IntegerStep) -> str:
    """Pad has no fused form: it is written on the integers."""
    w, mode = emitter.writer, pad_mode(step.attrs)
    pads = w.ints(onnx_pads(step.attrs["pad"], len(shape(step.anchor))))
    inputs = [_input(emitter, step), pads]
    if mode == "constant":
        qp = step.out_qparams
        inputs.append(w.scalar(as_integer(step.attrs.get("value"), qp, quantize), qp.dtype))
    return w.op("Pad", inputs, emitter.inner_name(step), mode=mode)


def piece(emitter: Emitter, step: IntegerStep) -> str:
    """One piece of a split is a Slice."""
    w, sizes = emitter.writer, split_sizes(step.anchor)
    index = step.attrs["index"]
    start = sum(sizes[:index])
    source = emitter.dequantize(_input(emitter, step), step.in_qparams[0], f"{step.name}/dequantized")
    bounds = [w.ints([value]) for value in (start, start + sizes[index], step.attrs["dim"])]
    sliced = w.op("Slice", [source, *bounds], f"{step.anchor.name}/{index}")
    return emitter.quantize(sliced, step.out_qparams, emitter.inner_name(step))


def clamp_by_tensors(emitter: Emitter, step: IntegerStep) -> str:
    """Nothing but the bounds, which `bound` writes; a copy where none of them binds."""
    source = _input(emitter, step)
    return source if is_bounded(step) else emitter.writer.op("Identity", [source], step.name)


def is_bounded(step: IntegerStep) -> bool:
    """Whether a step's integers have narrower bounds than their dtype."""
    full = step.clamp == (step.out_qparams.qmin, step.out_qparams.qmax)
    return not full or step.channel_low is not None or step.channel_high is not None


def bound(emitter: Emitter, step: IntegerStep, integers: str) -> str:
    """The step's bounds on its integers, where they are narrower than the dtype's; the last op is named as it."""
    w, qp = emitter.writer, step.out_qparams
    calls = []
    if step.clamp != (qp.qmin, qp.qmax):
        calls.append(("Clip", [w.scalar(limit, qp.dtype) for limit in step.clamp]))
    for op, limits in (("Max", step.channel_low), ("Min", step.channel_high)):
        if limits is not None:
            calls.append((op, [w.vector(_rows(limits, step).to(qp.dtype), "limits")]))
    for left, (op, operands) in zip(range(len(calls) - 1, -1, -1), calls, strict=True):
        integers = w.op(op, [integers, *operands], f"{step.name}/{op.lower()}" if left else step.name)
    return integers


def _rows(limits: Tensor, step: IntegerStep) -> Tensor:
    """Limits [C, 1, 1] of few channels, repeated along the width. The runtime keeps images channels last and
    broadcasts one row of channels at a time: a longer row is up to five times faster (32 channels)."""
    sizes = shape(step.anchor)
    width = sizes[-1]
    if len(sizes) != 4 or limits.ndim < 3 or limits.shape[-1] > 1 or not isinstance(width, int):
        return limits
    return limits.expand(*limits.shape[:-1], width).contiguous() if limits.numel() < _SHORT_ROW else limits


def _input(emitter: Emitter, step: IntegerStep) -> str:
    return emitter.read(step.inputs[0])


LOWERINGS: Mapping[Any, IntegerLowering] = {
    aten.conv_transpose1d.default: conv_transpose,
    aten.conv_transpose2d.input: conv_transpose,
    aten.conv_transpose3d.input: conv_transpose,
    aten.linear.default: linear,
    aten.relu.default: clamp,
    aten.hardtanh.default: clamp,
    aten.clamp.default: clamp,
    aten.clamp.Tensor: clamp_by_tensors,
    aten.hardsigmoid.default: hardsigmoid,
    aten.hardswish.default: hardswish,
    aten.silu.default: silu,
    aten.mean.dim: mean,
    aten.pad.default: pad,
    aten.constant_pad_nd.default: pad,
    aten.split.Tensor: piece,
    aten.split_with_sizes.default: piece,
    aten.chunk.default: piece,
}
