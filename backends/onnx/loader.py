"""An ONNX artifact in onnxruntime, optimizer on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..base import InputFact

# onnxruntime's names of types -> numpy's, where they differ by more than `tensor()`.
_DTYPES = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"} | {
    f"tensor({name})": name for name in ("int8", "uint8", "int16", "uint16", "int32", "int64", "bool")
}


@dataclass(frozen=True, slots=True)
class OnnxRunner:
    """One session on the CPU."""

    session: Any

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Outputs in order, exposed integers after them; inputs in placeholder order."""
        names = [value.name for value in self.session.get_inputs()]
        feeds = {name: np.ascontiguousarray(value) for name, value in zip(names, inputs, strict=True)}
        answers: list[np.ndarray] = self.session.run(None, feeds)
        return answers

    def input_facts(self) -> tuple[InputFact, ...]:
        return tuple(
            InputFact(
                value.name,
                tuple(size if isinstance(size, int) else None for size in value.shape),
                _DTYPES.get(value.type, value.type),
            )
            for value in self.session.get_inputs()
        )


def load(path: Path, threads: int = 1, optimized: Path | None = None) -> OnnxRunner:
    """Open `path` with `threads` intra-op threads; `optimized` is where onnxruntime writes its own graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return OnnxRunner(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))
