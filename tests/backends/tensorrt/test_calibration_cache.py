"""The scales as TensorRT's calibration cache: its format, and that the float model has the tensors it names."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import onnx
from fxedge.backends.tensorrt.calibration_cache import calibration_cache
from small_compile import compile_small


def test_it_names_every_quantized_tensor_of_the_float_model(tmp_path: Path) -> None:
    report = compile_small(tmp_path / "bundle", ("tensorrt",))
    program = report.results["tensorrt"].lowered.program
    text = (tmp_path / "bundle" / "tensorrt" / "calibration.cache").read_text()
    assert text == calibration_cache(program)
    header, *lines = text.splitlines()
    assert header == "TRT-8601-EntropyCalibration2"
    assert all(re.fullmatch(r"\w+: [0-9a-f]{8}", line) for line in lines)
    scales = {name: struct.unpack(">f", bytes.fromhex(bits))[0] for name, bits in (x.split(": ") for x in lines)}
    assert list(scales.values()) == [qp.scale[0] for qp in program.integer_values().values()]
    graph = onnx.load(tmp_path / "bundle" / "tensorrt" / "float_model.onnx").graph
    tensors = {graph.input[0].name} | {name for node in graph.node for name in node.output}
    assert scales.keys() <= tensors
    assert next(iter(scales)) == graph.input[0].name
