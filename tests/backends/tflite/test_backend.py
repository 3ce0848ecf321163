"""The backend's facts, its loader, and what it says of its own artifacts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fxedge.backends.tflite import backend as tflite
from fxedge.backends.tflite import inspect
from fxedge.backends.tflite.arithmetic import int8
from fxedge.backends.tflite.loader import load
from fxedge.backends.tflite.writer import Writer
from fxedge.compiler.ir.ops import aten
from fxedge.compiler.quant.program import build_program
from quantized_ops import OpCase, qint8


def test_facts() -> None:
    spec = tflite.spec
    assert (spec.activation.qmin, spec.activation.qmax) == (-128, 127)
    assert (spec.weight.qmin, spec.weight.qmax, spec.weight.symmetric) == (-127, 127, True)
    assert spec.bias == "int32"
    assert all(pairing is None for pairing in spec.saturation.values())
    shared = {aten.cat.default, aten.max_pool2d.default, aten.avg_pool2d.default, aten.reshape.default}
    assert all(spec.ops[op].shared for op in shared | {aten.constant_pad_nd.default, aten.relu.default})
    fixed = {op: spec.ops[op].fixed for op in (aten.softmax.int, aten.sigmoid.default, aten.tanh.default)}
    assert {op: (qp.scale, qp.zero_point) for op, qp in fixed.items() if qp} == {
        aten.softmax.int: ((1 / 256,), (-128,)),
        aten.sigmoid.default: ((1 / 256,), (-128,)),
        aten.tanh.default: ((1 / 128,), (0,)),
    }


def linear_case() -> OpCase:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (5, 16), generator=generator, dtype=torch.int32).to(torch.int8)
    x = torch.randint(-128, 128, (3, 16), generator=generator, dtype=torch.int32)
    return OpCase(
        aten.linear.default,
        [x],
        [int8(0.05, 3)],
        int8(0.4, -5),
        weight=weight,
        weight_qparams=qint8(torch.full((5,), 0.01)),
        bias=torch.zeros(5),
    )


def test_products_planned_as_int8_are_int8(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    program, path = build_program(linear_case().graph(), tflite.spec), tmp_path / "model.tflite"
    tflite.emit(program, path)
    assert tflite.unfused(program, path) == ()
    (step,) = [step.name for step in program.steps if hasattr(step, "anchor")]
    w = Writer()
    x, weight = w.tensor("x", (3, 16)), w.constant(torch.zeros(5, 16))
    path.write_bytes(w.model_bytes([x], [("y", w.op("FULLY_CONNECTED", [x, weight], (3, 5), step))]))
    assert tflite.unfused(program, path) == ("linear_default",)
    assert [op.code for op in inspect.operators(path)] == ["FULLY_CONNECTED"]


def test_a_runner_takes_any_batch_in_any_order(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    w = Writer()
    x = w.tensor("x", ("batch", 3))
    path = tmp_path / "model.tflite"
    path.write_bytes(w.model_bytes([x], [("y", w.op("MUL", [x, w.number(2.0)], ("batch", 3)))]))
    runner = load(path)
    for batch in (4, 1, 7, 4):
        value = np.arange(batch * 3, dtype=np.float32).reshape(batch, 3)
        np.testing.assert_array_equal(runner.run([value])[0], value * 2)


def test_a_fixed_axis_takes_no_other_size(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    w = Writer()
    x = w.tensor("x", ("batch", 3))
    path = tmp_path / "model.tflite"
    path.write_bytes(w.model_bytes([x], [("y", w.op("NEG", [x], ("batch", 3)))]))
    with pytest.raises(RuntimeError, match=r"dim 1.*|ResizeInputTensorStrict"):
        load(path).run([np.zeros((2, 4), np.float32)])


def test_what_no_output_needs_is_left_out(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    w = Writer()
    x = w.tensor("x", (2, 3))
    used, unused = w.op("NEG", [x], (2, 3)), w.op("ABS", [x], (2, 3))
    path = tmp_path / "model.tflite"
    path.write_bytes(w.model_bytes([x], [("y", used)]))
    assert unused.name == "/abs"
    assert [op.code for op in inspect.operators(path)] == ["NEG"]


def test_constants_of_equal_numbers_are_stored_once_for_equal_parameters() -> None:
    w = Writer()
    value = torch.tensor([1, 2], dtype=torch.int8)
    first = w.constant(value, qparams=int8(0.5, 0))
    assert w.constant(value.clone(), qparams=int8(0.5, 0)) is first
    assert w.constant(value, qparams=int8(0.25, 0)) is not first


def test_an_option_that_the_schema_lacks_is_an_error() -> None:
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    w = Writer()
    x = w.tensor("x", (2, 3))
    y = w.op("SOFTMAX", [x], (2, 3), betta=1.0)
    with pytest.raises(AttributeError, match="SoftmaxOptions has no betta"):
        w.model_bytes([x], [("y", y)])
