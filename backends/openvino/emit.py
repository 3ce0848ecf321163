"""The ONNX emitter, less what OpenVINO gets wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import fx

from ...compiler.ir.ops import CONV, aten, bound_args
from ...compiler.ir.sizes import shape
from ...compiler.quant.fusing import ACTIVATIONS
from ...compiler.quant.kernels import pool_sizes
from ...compiler.quant.program import IntegerStep, Program
from ..onnx import emit, emit_integer
from ..onnx.emit import Emitter
from ..onnx.emit_products import spread
from ..onnx.table import Value
from ..onnx.writer import Writer

_END = 2**31 - 1
_REDUCTIONS = ("ReduceMax", "ReduceMin")
_AVERAGES = (aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default)
_LARGEST = (aten.adaptive_max_pool1d.default, aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default)


class OpenvinoWriter(Writer):
    """Puts a view behind each extreme over axes: OpenVINO 2026.4 takes a quantize node into their kernels, and
    gives other numbers then."""

    __slots__ = ()

    def op(self, op_type: str, inputs: Sequence[str], out: str | None = None, **attributes: Any) -> str:
        if op_type not in _REDUCTIONS:
            return super().op(op_type, inputs, out, **attributes)
        kept = attributes.pop("keepdims")
        reduced = super().op(op_type, inputs, None, keepdims=1 - kept, **attributes)
        return super().op("Unsqueeze" if kept else "Squeeze", [reduced, inputs[1]], out)


@dataclass(slots=True)
class OpenvinoEmitter(Emitter):
    """QDQ ONNX for OpenVINO, whose own kernels take these activations as they are."""

    special: ClassVar[Mapping[Any, emit_integer.IntegerLowering]] = {
        op: written for op, written in emit_integer.LOWERINGS.items() if op not in ACTIVATIONS
    }

    writer: Writer = field(default_factory=OpenvinoWriter)
    layers: set[str] = field(default_factory=set)

    def integer_step(self, step: IntegerStep) -> None:
        super(OpenvinoEmitter, self).integer_step(step)
        if step.weight is not None:
            self.layers.add(step.name)

    def lower(self, node: fx.Node, name: str, replaced: dict[str, Value] | None = None) -> Any:
        """As for onnxruntime, but the largest of all positions is a reduction (see `OpenvinoWriter`), and rows of
        a table are taken by GatherND: OpenVINO 2026.4 refuses a model in which integers are made of Gather's, with
        an op and a transposition between."""
        w, source = self.writer, node.args[0]
        if node.target is aten.embedding.default:
            args, w.scope = bound_args(node), name
            indices = self.value(args["indices"])
            rows = w.op("Unsqueeze", [indices, w.ints([len(shape(args["indices"]))])], f"{name}/rows")
            return w.op("GatherND", [self.value(args["weight"]), rows], name)
        if node.target not in _LARGEST or set(bound_args(node)["output_size"]) != {1}:
            return super(OpenvinoEmitter, self).lower(node, name, replaced)
        assert isinstance(source, fx.Node)
        w.scope = name
        axes = w.ints(list(range(2, len(shape(source)))))
        return w.op("ReduceMax", [self.value(source), axes], f"{name}/0", keepdims=1), ""

    def product(self, step: IntegerStep) -> str:
        """A pointwise convolution with a stride as a slice of the integers and one without: OpenVINO moves the
        stride in front of the dequantize node, as a pool of floats, and what follows is float too. An average that
        counts padding with the padding apart: OpenVINO would pad with the integer 0, not with the zero point."""
        w, name, spatial = self.writer, step.anchor.name, len(shape(step.anchor)) - 2
        w.scope = name
        if step.anchor.target is aten.add.Tensor and len(step.inputs) == 2:
            return w.op("Add", [self._apart(step, index) for index in (0, 1)], name)
        if is_counted_pool(step.anchor):
            source = self.dequantize(self._padded(step, spatial), step.in_qparams[0], f"{name}/dequantized")
            kernel, stride = (pool_sizes(step.attrs, key, spatial) for key in ("kernel_size", "stride"))
            return w.op("AveragePool", [source], name, kernel_shape=kernel, strides=stride)
        if not is_strided_pointwise(step.anchor):
            return super(OpenvinoEmitter, self).product(step)
        stride = spread(step.attrs["stride"], spatial)
        bounds = [[0] * spatial, [_END] * spatial, list(range(2, spatial + 2)), stride]
        sliced = w.op("Slice", [self._padded(step, spatial), *map(w.ints, bounds)], f"{name}/strided")
        operands = self.product_operands(step, sliced)
        return w.op("Conv", operands, name, kernel_shape=[1] * spatial, group=step.attrs["groups"])

    def _apart(self, step: IntegerStep, index: int) -> str:
        """A dequantized summand. What a layer gives is read twice: OpenVINO would put the sum into the kernel of a
        layer with one reader, and drop the rounding between."""
        source, qp, name = step.inputs[index], step.in_qparams[index], f"{step.anchor.name}/{index}"
        value = self.dequantize(self.read(source), qp, name)
        if source not in self.layers:
            return value
        return self.writer.op("Max", [value, self.dequantize(self.read(source), qp, f"{name}/again")])

    def _padded(self, step: IntegerStep, spatial: int) -> str:
        """The step's integers with its padding around them: what stands for zero."""
        source, qp, padding = self.read(step.inputs[0]), step.in_qparams[0], spread(step.attrs["padding"], spatial)
        if not any(padding):
            return str(source)
        zero, pads = self.writer.scalar(qp.zero_point[0], qp.dtype), self.writer.ints([0, 0, *padding] * 2)
        return self.writer.op("Pad", [source, pads, zero], f"{step.anchor.name}/padded")


def is_strided_pointwise(node: fx.Node) -> bool:
    """Whether `node` is a convolution that reads single positions, and not all of them."""
    if node.target not in CONV:
        return False
    args, kernel = bound_args(node), shape(node.args[1])[2:]
    return set(kernel) == {1} and set(spread(args["stride"], len(kernel))) != {1}


def is_counted_pool(node: fx.Node) -> bool:
    """Whether `node` is an average pool that counts its padding."""
    if node.target not in _AVERAGES:
        return False
    args = bound_args(node)
    padding = args["padding"]
    return bool(args["count_include_pad"]) and any(padding if isinstance(padding, (list, tuple)) else [padding])


def program_bytes(program: Program, expose: Sequence[str] = ()) -> bytes:
    """As `onnx.emit.program_bytes`."""
    return emit.program_bytes(program, expose, OpenvinoEmitter)
