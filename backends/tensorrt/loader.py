"""A TensorRT artifact where there is no TensorRT: onnxruntime runs its operators one by one.

With its optimizer on, onnxruntime would run some int8 products on integers of its own making and some in float, as
the processor has it. With it off, every operator is what ONNX says, which is also what the engine is told.
"""

from __future__ import annotations

from pathlib import Path

from ...backends.base import Runner
from ..onnx.loader import OnnxRunner
from .engine import Engine, can_build
from .recipe import SCRIPT


def load(path: Path, threads: int = 1) -> Runner:
    """The model in onnxruntime, optimizer off. A finished one, with its recipe beside it, is built and run as an
    engine where TensorRT and a GPU are."""
    if (path.parent / SCRIPT).is_file() and can_build():
        return Engine.of(path)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return OnnxRunner(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))
