"""What an artifact holds, read back from the flatbuffer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...compiler.quant.program import IntegerStep, Program
from .schema import schema

_PRODUCTS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL", "CONV_3D"})


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator: its code, the names and types of its first input and of its outputs."""

    code: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    kind: str


def operators(path: Path) -> list[Operator]:
    """The operators of the artifact at `path`, in execution order."""
    s = schema()
    model = s.ModelT.InitFromPackedBuf(path.read_bytes())
    codes, kinds = _names(s.BuiltinOperator), _names(s.TensorType)
    graph = model.subgraphs[0]

    def name(index: int) -> str:
        return "" if index < 0 else graph.tensors[index].name.decode()

    return [
        Operator(
            codes[model.operatorCodes[op.opcodeIndex].builtinCode],
            tuple(name(index) for index in op.inputs),
            tuple(name(index) for index in op.outputs),
            kinds[graph.tensors[op.outputs[0]].type],
        )
        for op in graph.operators
    ]


def unfused(program: Program, path: Path) -> tuple[str, ...]:
    """Names of products planned as int8 whose operator gives floats."""
    planned = {step.name: step.anchor.name for step in program.steps if isinstance(step, IntegerStep)}
    found = [
        planned[name]
        for op in operators(path)
        for name in (part.partition("/")[0] for part in op.outputs)
        if op.code in _PRODUCTS and op.kind != "INT8" and name in planned
    ]
    return tuple(dict.fromkeys(found))


def _names(table: Any) -> dict[int, str]:
    return {number: name for name, number in vars(table).items() if isinstance(number, int)}
