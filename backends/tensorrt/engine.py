"""A model built and run as a TensorRT engine: written by the documentation of TensorRT 10 and 11, never run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .build_engine import build_engine


def can_build() -> bool:
    """Whether TensorRT is installed and torch sees a GPU."""
    return find_spec("tensorrt") is not None and torch.cuda.is_available()


@dataclass(frozen=True, slots=True)
class Engine:
    """One execution context; tensors live on torch's current GPU."""

    context: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, path: Path) -> Engine:
        """Build the engine of the model at `path`; nothing is written beside it."""
        import tensorrt as trt

        runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        engine = runtime.deserialize_cuda_engine(build_engine(path))
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = tuple(name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
        outputs = tuple(name for name in names if name not in inputs)
        return cls(engine.create_execution_context(), inputs, outputs)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        held = [torch.from_numpy(np.ascontiguousarray(value)).cuda() for value in inputs]
        for name, value in zip(self.inputs, held, strict=True):
            self.context.set_input_shape(name, tuple(value.shape))
            self.context.set_tensor_address(name, value.data_ptr())
        results = []
        for name in self.outputs:
            result = torch.empty(tuple(self.context.get_tensor_shape(name)), device="cuda")
            self.context.set_tensor_address(name, result.data_ptr())
            results.append(result)
        stream = torch.cuda.current_stream()
        if not self.context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError("TensorRT could not run the engine; its log says why")
        stream.synchronize()
        return [result.cpu().numpy() for result in results]
