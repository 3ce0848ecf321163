"""A program as explicitly quantized ONNX: every op in float, between dequantize and quantize nodes.

The ONNX emitter with TensorRT's placement: bias, residual and activation before the one quantize node of a region,
float biases, no integer outside quantize and dequantize nodes, weights on the axis of their output channels. What
was written is checked by `rules_check` before anyone sees it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from torch import fx

from ...compiler.ir.constants import constant
from ...compiler.ir.errors import UnsupportedOpsError
from ...compiler.ir.ops import aten, bound_args
from ...compiler.ir.qops import is_dequantize
from ...compiler.ir.sizes import shape
from ...compiler.quant.program import IntegerStep, Program
from ...compiler.quant.qnodes import read_qparams
from ..onnx import emit, emit_integer
from ..onnx.emit import Emitter
from ..onnx.table import Value
from . import rules_check

_SPLITS = (aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default)


@dataclass(slots=True)
class TensorrtEmitter(Emitter):
    """Writes the steps of one graph for TensorRT."""

    def integer_step(self, step: IntegerStep) -> None:
        if step.anchor.target in _SPLITS:
            self.values[step.name] = emit_integer.piece(self, step)
            return
        floats = self.fused(step, self.product(step), step.fused)
        self.values[step.name] = self.quantize(floats, step.out_qparams, step.name)

    def lower(self, node: fx.Node, name: str, replaced: dict[str, Value] | None = None) -> Any:
        """One aten op; a linear of rank 3 or more multiplies by a weight that is stored turned."""
        if node.target is not aten.linear.default or len(shape(node)) == 2 or not _is_quantized(self.gm, node):
            return super(TensorrtEmitter, self).lower(node, name, replaced)
        w, args = self.writer, bound_args(node)
        w.scope = name
        qp, stored = read_qparams(self.gm, args["weight"]), constant(self.gm, args["weight"].args[0])
        assert stored is not None
        turned = dataclasses.replace(qp, axis=1) if qp.per_channel else qp
        integers = self._stored_integers(f"{name}/weight", stored.t().contiguous(), turned)
        weight = self.dequantize(integers, turned, f"{name}/weight_dequantized")
        if args["bias"] is None:
            return w.op("MatMul", [self.value(args["input"]), weight], name)
        product = w.op("MatMul", [self.value(args["input"]), weight])
        return w.op("Add", [product, self.value(args["bias"])], name)

    def _integer_bias(self, step: IntegerStep) -> dict[str, Value]:
        return {}

    def _guarded_bias(self, node: fx.Node) -> dict[str, Value]:
        return {}


def program_bytes(program: Program, expose: Sequence[str] = ()) -> bytes:
    """The model, proven to keep TensorRT's rules; `expose` as in `onnx.emit.program_bytes`.

    Raises:
        UnsupportedOpsError: nodes without a lowering, or nodes of the model that break a rule; all at once.
    """
    content = emit.program_bytes(program, expose, TensorrtEmitter)
    broken = rules_check.broken_rules(onnx.load_from_string(content), exposed=len(expose))
    if broken:
        raise UnsupportedOpsError(program.spec.name, broken)
    return content


def _is_quantized(gm: fx.GraphModule, node: fx.Node) -> bool:
    weight = bound_args(node)["weight"]
    return isinstance(weight, fx.Node) and is_dequantize(weight) and constant(gm, weight.args[0]) is not None
