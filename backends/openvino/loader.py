"""An ONNX artifact in OpenVINO's CPU plugin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..base import InputFact


@dataclass(frozen=True, slots=True)
class OpenvinoRunner:
    """One compiled model with one request."""

    compiled: Any
    request: Any

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Outputs in order, exposed integers after them; inputs in placeholder order."""
        self.request.infer([np.ascontiguousarray(value) for value in inputs])
        return [np.array(self.request.get_tensor(port).data) for port in self.compiled.outputs]

    def input_facts(self) -> tuple[InputFact, ...]:
        return tuple(
            InputFact(
                port.any_name,
                tuple(None if size.is_dynamic else size.get_length() for size in port.partial_shape),
                np.dtype(port.element_type.to_dtype()).name,
            )
            for port in self.compiled.inputs
        )


def load(path: Path, threads: int = 1) -> OpenvinoRunner:
    """Compile the model at `path` for latency on the CPU, `threads` threads, floats in float32."""
    import openvino

    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",  # else float layers may run in bfloat16
    }
    compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
    return OpenvinoRunner(compiled, compiled.create_infer_request())
