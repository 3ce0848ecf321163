"""A `.pte` in ExecuTorch's runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import libraries


@dataclass(frozen=True, slots=True)
class ExecutorchRunner:
    """One loaded method. `program` owns what the method reads."""

    program: Any
    method: Any

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Outputs in order, exposed integers after them. More samples than one run takes go through several.

        Raises:
            ValueError: an axis is longer than the program takes, or outputs of several runs do not join.
        """
        tensors = [torch.from_numpy(np.ascontiguousarray(value)) for value in inputs]
        most = self._most(0)[0]
        count = len(tensors[0])
        if count <= most or any(len(tensor) != count for tensor in tensors):
            return self._once(tensors)
        parts = [self._part(tensors, start, most) for start in range(0, count, most)]
        return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]

    def _most(self, index: int) -> Sequence[int]:
        """The sizes that an input may have at most."""
        sizes: Sequence[int] = self.method.metadata.input_tensor_meta(index).sizes()
        return sizes

    def _once(self, tensors: Sequence[torch.Tensor]) -> list[np.ndarray]:
        """Copies: the next run writes into the same memory."""
        for index, tensor in enumerate(tensors):
            for axis, (size, most) in enumerate(zip(tensor.shape, self._most(index), strict=False)):
                if size > most:
                    raise ValueError(
                        f"input {index} has shape {list(tensor.shape)}; this program takes at most {most} on axis "
                        f"{axis}: ExecuTorch plans the memory of a program for the largest sizes that it will see"
                    )
        return [output.numpy().copy() for output in self.method.execute(tensors)]

    def _part(self, tensors: Sequence[torch.Tensor], start: int, count: int) -> list[np.ndarray]:
        part = [tensor[start : start + count] for tensor in tensors]
        outputs = self._once(part)
        for output in outputs:
            if output.shape[:1] != part[0].shape[:1]:
                raise ValueError(
                    f"this program takes at most {count} samples at a time, and its outputs of several runs "
                    f"cannot be joined: one has shape {list(output.shape)}, whose first axis is not the batch"
                )
        return outputs


def load(path: Path, threads: int = 1) -> ExecutorchRunner:
    """Open `path` with `threads` threads, for the whole process."""
    bindings = libraries.load("executorch.extension.pybindings.portable_lib")
    bindings._unsafe_reset_threadpool(threads)
    program = libraries.load("executorch.runtime").Runtime.get().load_program(path)
    return ExecutorchRunner(program, program.load_method("forward"))
