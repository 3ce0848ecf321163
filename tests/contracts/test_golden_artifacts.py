"""Golden dumps of three models per format: what each target's plan and artifact look like, as text.

Ranges are set by hand, so that the dumps do not depend on the CPU's float arithmetic. `--update-golden` renews.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import pytest
from fxedge.backends import registry
from fxedge.compiler.pipeline.lower import lower, plan_targets, prepare
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.quant.calibrate import CalibrationStats, range_key
from fxedge.compiler.quant.plan import Plan
from fxedge.models import get

MODELS = ("residual", "se_block", "depthwise")


@pytest.mark.parametrize("target", registry.names())
@pytest.mark.parametrize("model", MODELS)
def test_plan_and_artifact(model: str, target: str, golden: Callable[[str, str], None], tmp_path: Path) -> None:
    backend = registry.get(target)
    if (reason := backend.missing()) is not None:
        pytest.skip(reason)
    entry = get(model)
    prepared = prepare(entry.factory(), entry.example_inputs(), CompileOptions(recipe="fast"))
    plan = plan_targets(prepared, [backend.spec], CompileOptions(recipe="fast"))[target]
    lowered = lower(prepared, backend.spec, plan, _fixed_ranges(plan), CompileOptions(recipe="fast"))
    path = tmp_path / backend.artifact
    backend.emit(lowered.program, path)
    again = tmp_path / f"again_{backend.artifact}"
    backend.emit(lowered.program, again)
    assert path.read_bytes() == again.read_bytes()
    texts = {".onnx": _onnx_text, ".tflite": _tflite_text, ".pte": _pte_text}
    structure = texts.get(path.suffix, _torchscript_text)(path)
    golden(f"{model}.{target}.txt", f"{plan.format()}\n\n{structure}\n")


def _fixed_ranges(plan: Plan) -> CalibrationStats:
    """[-1, 3] for every range."""
    ranges = {range_key(group): (-1.0, 3.0) for group in plan.groups if group.fixed is None}
    return CalibrationStats("fixed", 1, ranges)


def _onnx_text(path: Path) -> str:
    """One line for each node; initializers by type and shape, small ones by value."""
    graph = onnx.load(path).graph
    lines = [f"{'/'.join(n.output)} = {n.op_type}({', '.join(n.input)}){_attributes(n)}" for n in graph.node]
    for tensor in sorted(graph.initializer, key=lambda item: item.name):
        array = onnx.numpy_helper.to_array(tensor)
        value = f" {array.ravel().tolist()}" if array.size <= 4 and array.dtype.kind in "iub" else ""
        lines.append(f"{tensor.name}: {array.dtype}{list(array.shape)}{value}")
    return "\n".join(lines)


def _attributes(node: onnx.NodeProto) -> str:
    values = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    shown = {
        name: np.round(value, 6) if isinstance(value, float) else value for name, value in sorted(values.items())
    }
    return f" {shown}" if shown else ""


def _pte_text(path: Path) -> str:
    """The notes of a program and the ops of its delegates."""
    from fxedge.backends.executorch import inspect

    ops = [f"{op.kind} {'int8' if op.integer else 'float'}" for op in inspect.delegated(path)]
    return "\n".join([*inspect.notes(path), *ops])


def _torchscript_text(path: Path) -> str:
    """The code of the scripted module, as the archive holds it."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if "/code/" in name and name.endswith(".py"))
        return "\n".join(archive.read(name).decode() for name in names)


def _tflite_text(path: Path) -> str:
    """One line for each operator, then one for each stored tensor."""
    s = import_module("ai_edge_litert.schema_py_generated")
    model = s.ModelT.InitFromPackedBuf(path.read_bytes())
    graph, codes = model.subgraphs[0], {v: k for k, v in vars(s.BuiltinOperator).items() if isinstance(v, int)}
    names = [tensor.name.decode() for tensor in graph.tensors]
    lines = []
    for op in graph.operators:
        code = codes[model.operatorCodes[op.opcodeIndex].builtinCode]
        reads, writes = ([names[i] for i in indices] for indices in (op.inputs, op.outputs))
        shapes = [list(map(int, graph.tensors[i].shape)) for i in op.outputs]
        lines.append(f"{', '.join(writes)} = {code}({', '.join(reads)}){_options(op.builtinOptions)} {shapes[0]}")
    for tensor in graph.tensors:
        if (data := model.buffers[tensor.buffer].data) is not None and len(data):
            lines.append(f"{tensor.name.decode()}: {list(map(int, tensor.shape))}, {len(data)} bytes")
    return "\n".join(lines)


def _options(options: object) -> str:
    values = {} if options is None else {k: v for k, v in vars(options).items() if isinstance(v, int) and v}
    return f" {values}" if values else ""
