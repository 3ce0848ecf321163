"""Proof that an ONNX model keeps TensorRT's rules for explicit quantization; every break with its reason.

Types: quantize nodes give int8 with one scale and zero point 0; what they give is read by dequantize nodes of
the same parameters only. Weights are int8 with zero point 0, per tensor or with a scale for each output channel
(axis 0 of Conv and of Gemm's turned matrix, the last of MatMul), behind a dequantize node. Biases are float.
No other node reads 8-bit integers.

Placement: a quantized product has quantized inputs; bias, residual sum and activation come before the quantize
node that ends its region, so no dequantized product that nothing else needs goes into a sum, a clamp or an
activation; maxima and data movement between dequantize and quantize keep the parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

Broken = tuple[str, str, str]

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
TAKEN_IN = frozenset({"Relu", "Clip", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "LeakyRelu", "Gelu"})
MOVES = frozenset(
    {"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather", "Expand", "Concat"}
)
_BYTES = (TensorProto.INT8, TensorProto.UINT8)


def broken_rules(model: onnx.ModelProto, exposed: int = 0) -> list[Broken]:
    """(node, op, reason) of every node that breaks a rule; none proves the model. The last `exposed` outputs are
    integers shown for a parity check, which a deployed model has not."""
    graph = _Graph.of(model.graph, exposed)
    return _reasons(graph, (_quantize, _dequantize, _bytes, _product, _taken_in, _move))


def needless_quantizers(model: onnx.ModelProto) -> list[Broken]:
    """Outputs of the graph that are quantized for nothing: right, but a rounding more than it takes. A plan of
    ours has none, a graph that someone else quantized may."""
    return _reasons(_Graph.of(model.graph, 0), (_result,))


@dataclass(frozen=True, slots=True)
class _Graph:
    """Nodes, makers and readers of each tensor, stored tensors, and the names of the deployed outputs."""

    nodes: list[onnx.NodeProto]
    makers: dict[str, onnx.NodeProto]
    readers: dict[str, list[onnx.NodeProto]]
    stored: dict[str, onnx.TensorProto]
    outputs: set[str]
    shown: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, graph: onnx.GraphProto, exposed: int) -> _Graph:
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        names = [output.name for output in graph.output]
        return cls(
            list(graph.node),
            {name: node for node in graph.node for name in node.output},
            readers,
            {tensor.name: tensor for tensor in graph.initializer},
            set(names[: len(names) - exposed]),
            set(names[len(names) - exposed :]),
        )

    def maker(self, name: str, op_type: str) -> onnx.NodeProto | None:
        node = self.makers.get(name)
        return node if node is not None and node.op_type == op_type else None

    def array(self, name: str) -> np.ndarray | None:
        return numpy_helper.to_array(self.stored[name]) if name in self.stored else None

    def same_parameters(self, left: onnx.NodeProto, right: onnx.NodeProto) -> bool:
        if len(left.input) != len(right.input):
            return False
        pairs = [(self.array(a), self.array(b)) for a, b in zip(left.input[1:3], right.input[1:3], strict=True)]
        return all(a is not None and b is not None and np.array_equal(a, b) for a, b in pairs)

    def sole_reader(self, name: str) -> onnx.NodeProto | None:
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None


Check = Callable[[_Graph, onnx.NodeProto], Iterator[str]]


def _reasons(graph: _Graph, checks: Sequence[Check]) -> list[Broken]:
    return [
        (node.name, node.op_type, reason)
        for node in graph.nodes
        for check in checks
        for reason in check(graph, node)
    ]


def _parameters(graph: _Graph, node: onnx.NodeProto) -> Iterator[str]:
    """What every quantize and dequantize node owes."""
    if len(node.input) != 3:
        yield "it has no zero point, so its type is not said"
        return
    scale, zero_point = (graph.array(name) for name in node.input[1:])
    if scale is None or zero_point is None:
        yield "its scale or zero point is computed, not stored"
        return
    if zero_point.dtype != np.int8:
        yield f"its integers are {zero_point.dtype}, not int8"
    elif zero_point.any():
        yield "its zero point is not 0"
    if scale.dtype != np.float32 or not np.isfinite(scale).all() or (scale <= 0).any():
        yield "its scale is not a positive float32"


def _quantize(graph: _Graph, node: onnx.NodeProto) -> Iterator[str]:
    if node.op_type != QUANTIZE:
        return
    yield from _parameters(graph, node)
    scale = graph.array(node.input[1])
    if scale is not None and scale.size != 1:
        yield "an activation has several scales"
    for reader in graph.readers.get(node.output[0], []):
        if reader.op_type != DEQUANTIZE:
            yield f"{reader.op_type} {reader.name} reads its integers"
        elif not graph.same_parameters(node, reader):
            yield f"{reader.name} dequantizes it with other parameters"
    if node.output[0] in graph.outputs:
        yield "an output of the graph is int8"


def _dequantize(graph: _Graph, node: onnx.NodeProto) -> Iterator[str]:
    if node.op_type != DEQUANTIZE:
        return
    yield from _parameters(graph, node)
    if graph.maker(node.input[0], QUANTIZE) is not None:
        return
    if node.input[0] not in graph.stored:
        yield "it reads neither a quantize node nor stored integers"
        return
    for reader in graph.readers.get(node.output[0], []):
        place = list(reader.input).index(node.output[0])
        if reader.op_type in PRODUCTS and place == 2:
            yield f"the bias of {reader.name} is quantized"
        elif reader.op_type in PRODUCTS and place == 1:
            yield from _weight(graph, node, reader)


def _weight(graph: _Graph, node: onnx.NodeProto, product: onnx.NodeProto) -> Iterator[str]:
    stored, scale = graph.array(node.input[0]), graph.array(node.input[1])
    assert stored is not None
    if scale is None or scale.size == 1:
        return
    attributes = {attribute.name: attribute.i for attribute in product.attribute}
    wanted = stored.ndim - 1 if product.op_type == "MatMul" else 0
    if product.op_type == "Gemm" and not attributes.get("transB"):
        wanted = 1
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1) % stored.ndim
    if axis != wanted:
        yield f"the scales of the weight of {product.name} are on axis {axis}, not {wanted}, its output channels"
    if scale.shape != (stored.shape[axis],):
        yield f"{scale.size} scales for {stored.shape[axis]} output channels"


def _bytes(graph: _Graph, node: onnx.NodeProto) -> Iterator[str]:
    """8-bit integers belong to quantize and dequantize nodes alone."""
    if node.op_type in (QUANTIZE, DEQUANTIZE):
        return
    for name in node.input:
        if name in graph.stored and graph.stored[name].data_type in _BYTES:
            yield f"it reads the 8-bit integers {name}"


def _product(graph: _Graph, node: onnx.NodeProto) -> Iterator[str]:
    if node.op_type not in PRODUCTS:
        return
    weight = graph.maker(node.input[1], DEQUANTIZE)
    stored = weight is not None and weight.input[0] in graph.stored
    if stored and graph.maker(node.input[0], DEQUANTIZE) is None:
        yield "its weight is quantized but its input is float, so that it runs in float"


def _taken_in(graph: _Graph, node: onnx.NodeProto) -> Iterator[str]:
    """A sum or activation that a product's kernel would have taken in, had no quantize node come between."""
    if node.op_type not in TAKEN_IN and node.op_type != "Add":
        return
    for name in node.input:
        source = graph.maker(name, DEQUANTIZE)
        if source is None or graph.sole_reader(name) is not node:
            continue
        quantize = graph.maker(source.input[0], QUANTIZE)
        if quantize is None or len(graph.readers[quantize.output[0]]) > 1:
            continue
        product = _layer_before(graph, quantize.input[0])
        takes = node.op_type in TAKEN_IN or (product is not None and product.op_type == "Conv")
        if product is not None and takes and not _is_taken(graph, node, product):
            yield f"the result of {product.name} is quantized before it"


def _layer_before(graph: _Graph, name: str) -> onnx.NodeProto | None:
    """The quantized product that gives a tensor, with nothing but its bias between."""
    node = graph.makers.get(name)
    if node is not None and node.op_type == "Add" and any(operand in graph.stored for operand in node.input):
        node = graph.makers.get(next(operand for operand in node.input if operand not in graph.stored))
    if node is None or node.op_type not in PRODUCTS or graph.sole_reader(node.output[0]) is None:
        return None
    return node if graph.maker(node.input[0], DEQUANTIZE) is not None else None


def _is_taken(graph: _Graph, node: onnx.NodeProto, product: onnx.NodeProto) -> bool:
    """Whether a sum is the end of another convolution's region already: one of two layers goes into the other."""
    others = [name for name in node.input if name not in graph.stored]
    return node.op_type == "Add" and any(
        (other := _layer_before(graph, name)) is not None and other is not product for name in others
    )


def _move(graph: _Graph, node: onnx.NodeProto) -> Iterator[str]:
    """What only moves or selects integers keeps their parameters, so that it can run on them."""
    if node.op_type not in MOVES:
        return
    sources = [maker for name in node.input if (maker := graph.maker(name, DEQUANTIZE)) is not None]
    quantizers = [reader for reader in graph.readers.get(node.output[0], []) if reader.op_type == QUANTIZE]
    for quantize in quantizers:
        if any(not graph.same_parameters(source, quantize) for source in sources):
            yield f"{quantize.name} gives it other parameters than it reads"


def _result(graph: _Graph, node: onnx.NodeProto) -> Iterator[str]:
    """A layer's result that only an output of the graph reads is left in float."""
    if node.op_type != "Identity" or node.output[0] not in graph.outputs:
        return
    source = graph.maker(node.input[0], DEQUANTIZE)
    quantize = None if source is None else graph.maker(source.input[0], QUANTIZE)
    if quantize is None or len(graph.readers[quantize.output[0]]) > 1:
        return
    maker = graph.makers.get(quantize.input[0])
    if maker is not None and maker.op_type not in MOVES:
        yield f"the output is quantized by {quantize.name} for nothing"
