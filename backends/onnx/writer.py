"""A growing ONNX graph: nodes, initializers and names.

Tensor and node names are the fx node names, so that they are stable from run to run and a reader finds them in the
graph dump; intermediate values of an op are `<name>/<what>`, which no fx name can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

# The lowest operator set with Gelu; its DequantizeLinear and QuantizeLinear fuse as every one from 13 to 23 does.
OPSET = 20
IR_VERSION = 9

# The lowest with int4 tensors, and the file format that holds them.
INT4_OPSET = 21
INT4_IR_VERSION = 10

DTYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
    torch.float16: TensorProto.FLOAT16,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
    torch.int8: TensorProto.INT8,
    torch.uint8: TensorProto.UINT8,
    torch.bool: TensorProto.BOOL,
}


@dataclass(slots=True)
class Writer:
    """Appends to one graph. `scope` names the op that is being lowered."""

    scope: str = ""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    _taken: dict[str, int] = field(default_factory=dict)
    _shared: dict[tuple[Any, ...], str] = field(default_factory=dict)

    def op(self, op_type: str, inputs: Sequence[str], out: str | None = None, **attributes: Any) -> str:
        """One node with one output, named `out` or after the scope and the op type."""
        return self.multi(op_type, inputs, [out or f"{self.scope}/{op_type.lower()}"], **attributes)[0]

    def multi(
        self, op_type: str, inputs: Sequence[str], outs: Sequence[str], **attributes: Any
    ) -> tuple[str, ...]:
        """One node with several outputs."""
        names = tuple(self.unique(out) for out in outs)
        given = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(op_type, inputs, names, name=names[0], **given))
        return names

    def initializer(self, name: str, value: Tensor) -> str:
        """A stored tensor under `name`."""
        name = self.unique(name)
        proto = TensorProto(name=name, data_type=DTYPES[value.dtype], dims=value.shape)
        proto.raw_data = value.detach().cpu().contiguous().numpy().tobytes()
        self.initializers[name] = proto
        return name

    def nibbles(self, name: str, value: Tensor) -> str:
        """Integers of -8 to 7, stored as int4 under `name` and cast to int8.

        onnxruntime casts them when it loads the model, before it looks for convolutions to fuse. One that reads
        int4 through its DequantizeLinear stays float (onnxruntime 1.31).
        """
        low = value.detach().cpu().contiguous().flatten().to(torch.uint8) & 0xF
        low = torch.nn.functional.pad(low, (0, low.numel() % 2))
        packed = self.unique(name)
        proto = TensorProto(name=packed, data_type=TensorProto.INT4, dims=value.shape)
        proto.raw_data = (low[::2] | low[1::2] << 4).numpy().tobytes()
        self.initializers[packed] = proto
        return self.op("Cast", [packed], f"{name}/int8", to=TensorProto.INT8)

    def ints(self, values: Sequence[int]) -> str:
        """An int64 [n] constant; equal ones are stored once."""
        return self._constant(torch.tensor(values, dtype=torch.int64), "ints")

    def scalar(self, value: float, dtype: torch.dtype = torch.float32) -> str:
        """A constant without axes; equal ones are stored once."""
        return self._constant(torch.tensor(value, dtype=dtype), "scalar")

    def vector(self, value: Tensor, hint: str) -> str:
        """A small constant tensor; equal ones are stored once."""
        return self._constant(value, hint)

    def unique(self, name: str) -> str:
        """`name`, with a numbered suffix where it is taken."""
        if name not in self._taken:
            self._taken[name] = 0
            return name
        self._taken[name] += 1
        return self.unique(f"{name}:{self._taken[name]}")

    def drop_unused(self, outputs: Sequence[str]) -> None:
        """Remove nodes and initializers that no output depends on."""
        wanted = set(outputs)
        kept = []
        for node in reversed(self.nodes):
            if wanted.intersection(node.output):
                kept.append(node)
                wanted.update(node.input)
        self.nodes = kept[::-1]
        self.initializers = {name: proto for name, proto in self.initializers.items() if name in wanted}

    def _constant(self, value: Tensor, hint: str) -> str:
        key = (value.dtype, tuple(value.shape), value.numpy().tobytes())
        if key not in self._shared:
            self._shared[key] = self.initializer(f"{hint}:{len(self._shared)}", value)
        return self._shared[key]


def model_bytes(
    writer: Writer, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
) -> bytes:
    """The finished model: checked, and the same bytes for the same graph.

    Raises:
        onnx.checker.ValidationError: the graph is not valid ONNX, which is a fault of a lowering.
    """
    graph = helper.make_graph(writer.nodes, "fxedge", inputs, outputs, list(writer.initializers.values()))
    int4 = any(proto.data_type == TensorProto.INT4 for proto in writer.initializers.values())
    opset = helper.make_opsetid("", INT4_OPSET if int4 else OPSET)
    version = INT4_IR_VERSION if int4 else IR_VERSION
    model = helper.make_model(
        graph, opset_imports=[opset], ir_version=version, producer_name="fxedge", functions=()
    )
    content: bytes = model.SerializeToString(deterministic=True)
    onnx.checker.check_model(content, full_check=True)
    return content
