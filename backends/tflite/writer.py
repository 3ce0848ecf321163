"""A growing TFLite graph: tensors, operators and buffers, written with the object API of LiteRT's schema.

Tensor names are the fx node names; intermediate values of an op are `<name>/<what>`. An axis whose size may change
at run time is -1 in the tensor's shape signature and stands as 1 in its shape, which is what the interpreter
allocates before it is told of an input's size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ...compiler.quant.qparams import QParams
from .schema import schema

Size = int | str

DTYPES = {
    torch.float32: "FLOAT32",
    torch.float64: "FLOAT64",
    torch.int64: "INT64",
    torch.int32: "INT32",
    torch.int8: "INT8",
    torch.bool: "BOOL",
}
_NUMPY: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float64: np.float64, torch.int64: np.int64}
_NUMPY |= {torch.int32: np.int32, torch.int8: np.int8, torch.bool: np.bool_}

# The op's version where it is not 1, as TFLite's version table counts: (float, int8).
_VERSIONS: Mapping[str, tuple[int, int]] = {
    "ADD": (1, 2),
    "AVERAGE_POOL_2D": (1, 2),
    "BATCH_MATMUL": (1, 2),
    "CONCATENATION": (1, 2),
    "CONV_2D": (1, 3),
    "DEPTHWISE_CONV_2D": (2, 3),
    "DEQUANTIZE": (2, 2),
    "FULLY_CONNECTED": (5, 12),
    "GELU": (1, 2),
    "LEAKY_RELU": (1, 2),
    "LOGISTIC": (1, 2),
    "MAXIMUM": (1, 2),
    "MAX_POOL_2D": (1, 2),
    "MEAN": (1, 2),
    "MINIMUM": (1, 2),
    "MUL": (1, 2),
    "PAD": (1, 2),
    "PADV2": (1, 2),
    "QUANTIZE": (1, 2),
    "RELU": (1, 2),
    "RELU6": (1, 2),
    "RESIZE_BILINEAR": (3, 3),
    "RESIZE_NEAREST_NEIGHBOR": (3, 3),
    "SLICE": (1, 2),
    "SOFTMAX": (1, 2),
    "SPLIT": (1, 2),
    "SPLIT_V": (1, 2),
    "STRIDED_SLICE": (1, 2),
    "SUB": (1, 2),
    "TANH": (1, 2),
    "TRANSPOSE": (1, 2),
    "TRANSPOSE_CONV": (3, 3),
}


class _AlignedBuffer:
    """A stored tensor's bytes at an address divisible by 16, as the schema demands (the object API does not)."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def Pack(self, builder: Any) -> Any:
        found = None
        if self.data:
            builder.StartVector(1, len(self.data), 16)
            builder.head = builder.head - len(self.data)
            builder.Bytes[builder.head : builder.head + len(self.data)] = self.data
            found = builder.EndVector()
        schema().BufferStart(builder)
        if found is not None:
            schema().BufferAddData(builder, found)
        return schema().BufferEnd(builder)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the graph. `constant` where its numbers are stored."""

    index: int
    name: str
    shape: tuple[Size, ...]
    dtype: torch.dtype
    qparams: QParams | None = None
    constant: np.ndarray | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass(frozen=True, slots=True)
class _Operator:
    code: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any]
    version: int


@dataclass(slots=True)
class Writer:
    """Appends to one graph. `scope` names the op that is being lowered."""

    scope: str = ""
    tensors: list[Tensor] = field(default_factory=list)
    operators: list[_Operator] = field(default_factory=list)
    _taken: dict[str, int] = field(default_factory=dict)
    _shared: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)

    def tensor(
        self, name: str, shape: Sequence[Size], dtype: torch.dtype = torch.float32, qparams: QParams | None = None
    ) -> Tensor:
        """A new tensor that an operator (or an input) fills."""
        found = Tensor(len(self.tensors), self.unique(name), tuple(shape), dtype, qparams)
        self.tensors.append(found)
        return found

    def constant(self, value: torch.Tensor, name: str = "", qparams: QParams | None = None) -> Tensor:
        """A stored tensor; equal ones are stored once."""
        stored = value.detach().cpu().contiguous()
        key = (stored.dtype, tuple(stored.shape), stored.numpy().tobytes(), qparams)
        if key not in self._shared:
            array = stored.numpy().astype(_NUMPY[stored.dtype], copy=True)
            label = self.unique(name or f"constant:{len(self._shared)}")
            made = Tensor(len(self.tensors), label, tuple(stored.shape), stored.dtype, qparams, array)
            self.tensors.append(made)
            self._shared[key] = made
        return self._shared[key]

    def ints(self, values: Sequence[int]) -> Tensor:
        """An int32 [n] constant."""
        return self.constant(torch.tensor(list(values), dtype=torch.int32))

    def number(self, value: float, dtype: torch.dtype = torch.float32) -> Tensor:
        """A constant without axes."""
        return self.constant(torch.tensor(value, dtype=dtype))

    def op(
        self,
        code: str,
        inputs: Sequence[Tensor | None],
        shape: Sequence[Size],
        out: str | None = None,
        *,
        dtype: torch.dtype | None = None,
        qparams: QParams | None = None,
        **options: Any,
    ) -> Tensor:
        """One operator with one output, named `out` or after the scope and the op; its dtype is by default that of
        the first input. An absent optional input is None."""
        assert inputs[0] is not None
        kind = dtype or (qparams.dtype if qparams is not None else inputs[0].dtype)
        result = self.tensor(out or f"{self.scope}/{code.lower()}", shape, kind, qparams)
        self.append(code, inputs, [result], **options)
        return result

    def append(
        self, code: str, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor], **options: Any
    ) -> None:
        """One operator that fills `outputs`."""
        reads = tuple(-1 if tensor is None else tensor.index for tensor in inputs)
        integer = any(tensor.dtype is torch.int8 for tensor in (*inputs, *outputs) if tensor is not None)
        version = _VERSIONS.get(code, (1, 1))[integer]
        self.operators.append(_Operator(code, reads, tuple(t.index for t in outputs), options, version))

    def unique(self, name: str) -> str:
        """`name`, with a numbered suffix where it is taken."""
        if name not in self._taken:
            self._taken[name] = 0
            return name
        self._taken[name] += 1
        return self.unique(f"{name}:{self._taken[name]}")

    def model_bytes(self, inputs: Sequence[Tensor], outputs: Sequence[tuple[str, Tensor]]) -> bytes:
        """The finished model, without what no output needs; `outputs` are named in its signature."""
        return _Packer(self, inputs, outputs).model_bytes()


class _Packer:
    """Numbers what is used and packs it."""

    def __init__(self, writer: Writer, inputs: Sequence[Tensor], outputs: Sequence[tuple[str, Tensor]]) -> None:
        self._writer, self._inputs, self._outputs = writer, inputs, outputs
        wanted = {tensor.index for _, tensor in outputs}
        self._kept: list[_Operator] = []
        for operator in reversed(writer.operators):
            if wanted.intersection(operator.outputs):
                self._kept.insert(0, operator)
                wanted.update(operator.inputs, operator.outputs)
        wanted |= {tensor.index for tensor in inputs}
        self._tensors = [tensor for tensor in writer.tensors if tensor.index in wanted]
        self._place = {tensor.index: place for place, tensor in enumerate(self._tensors)} | {-1: -1}
        self._buffers: list[Any] = [_AlignedBuffer(b"")]

    def model_bytes(self) -> bytes:
        import flatbuffers

        s = schema()
        graph = s.SubGraphT()
        graph.name = "main"
        graph.tensors = [self._tensor(tensor) for tensor in self._tensors]
        graph.inputs = [self._place[tensor.index] for tensor in self._inputs]
        graph.outputs = [self._place[tensor.index] for _, tensor in self._outputs]
        codes: dict[tuple[str, int], int] = {}
        graph.operators = [self._operator(operator, codes) for operator in self._kept]
        model = s.ModelT()
        model.version, model.description = 3, "fxedge"
        model.operatorCodes = [_code(*key) for key in codes]
        model.subgraphs, model.buffers = [graph], self._buffers
        model.signatureDefs = [self._signature()]
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _tensor(self, tensor: Tensor) -> Any:
        made = schema().TensorT()
        made.name = tensor.name
        made.type = getattr(schema().TensorType, DTYPES[tensor.dtype])
        made.hasRank = True
        made.shape = [size if isinstance(size, int) else 1 for size in tensor.shape]
        if any(not isinstance(size, int) for size in tensor.shape):
            made.shapeSignature = [size if isinstance(size, int) else -1 for size in tensor.shape]
        if tensor.constant is not None:
            made.buffer = len(self._buffers)
            self._buffers.append(_AlignedBuffer(tensor.constant.tobytes()))
        if tensor.qparams is not None:
            made.quantization = _quantization(tensor.qparams)
        return made

    def _operator(self, operator: _Operator, codes: dict[tuple[str, int], int]) -> Any:
        made = schema().OperatorT()
        made.opcodeIndex = codes.setdefault((operator.code, operator.version), len(codes))
        made.inputs = [self._place[index] for index in operator.inputs]
        made.outputs = [self._place[index] for index in operator.outputs]
        name = OPTIONS.get(operator.code)
        if name is not None:
            options = getattr(schema(), f"{name}T")()
            for key, value in operator.options.items():
                if not hasattr(options, key):
                    raise AttributeError(f"{name} has no {key}")
                setattr(options, key, value)
            made.builtinOptionsType = getattr(schema().BuiltinOptions, name)
            made.builtinOptions = options
        elif operator.options:
            raise AttributeError(f"{operator.code} has no options")
        return made

    def _signature(self) -> Any:
        s = schema()
        signature = s.SignatureDefT()
        signature.signatureKey = "serving_default"
        signature.inputs = [self._named(tensor.name, tensor) for tensor in self._inputs]
        signature.outputs = [self._named(name, tensor) for name, tensor in self._outputs]
        return signature

    def _named(self, name: str, tensor: Tensor) -> Any:
        made = schema().TensorMapT()
        made.name, made.tensorIndex = name, self._place[tensor.index]
        return made


def _code(code: str, version: int) -> Any:
    made, number = schema().OperatorCodeT(), getattr(schema().BuiltinOperator, code)
    made.builtinCode, made.deprecatedBuiltinCode, made.version = number, min(number, 127), version
    return made


def _quantization(qp: QParams) -> Any:
    made = schema().QuantizationParametersT()
    made.scale = np.asarray(qp.scale, np.float32)
    made.zeroPoint = np.asarray(qp.zero_point, np.int64)
    made.quantizedDimension = qp.axis or 0
    return made


OPTIONS = {
    "ADD": "AddOptions",
    "ARG_MAX": "ArgMaxOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "CAST": "CastOptions",
    "CONCATENATION": "ConcatenationOptions",
    "CONV_2D": "Conv2DOptions",
    "CONV_3D": "Conv3DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "DEPTH_TO_SPACE": "DepthToSpaceOptions",
    "DIV": "DivOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "GATHER": "GatherOptions",
    "GELU": "GeluOptions",
    "LEAKY_RELU": "LeakyReluOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "MIRROR_PAD": "MirrorPadOptions",
    "MUL": "MulOptions",
    "PACK": "PackOptions",
    "REDUCE_MAX": "ReducerOptions",
    "REDUCE_MIN": "ReducerOptions",
    "RESHAPE": "ReshapeOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "SHAPE": "ShapeOptions",
    "SOFTMAX": "SoftmaxOptions",
    "SPACE_TO_DEPTH": "SpaceToDepthOptions",
    "SPLIT": "SplitOptions",
    "SPLIT_V": "SplitVOptions",
    "SQUEEZE": "SqueezeOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "SUB": "SubOptions",
    "SUM": "ReducerOptions",
    "TRANSPOSE_CONV": "TransposeConvOptions",
}
