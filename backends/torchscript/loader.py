"""Loads a TorchScript artifact in this process: engine, threads, module, optimizer on where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .archive import LITE
from .deprecated import load_lite, quiet


class TorchScriptRunner:
    """A loaded artifact. TorchScript's executor profiles the first runs and optimizes later ones."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Outputs flattened in order, exposed integers after them."""
        tensors = [torch.from_numpy(np.ascontiguousarray(value)) for value in inputs]
        with quiet(), torch.inference_mode():
            results = self._module(*tensors)
        return [result.numpy() for result in (results if isinstance(results, tuple) else (results,))]


def load(path: Path, engine: str, threads: int) -> TorchScriptRunner:
    """Weights are packed for `engine` as the file is read, so the engine is set first, for the whole process."""
    torch.set_num_threads(threads)
    torch.backends.quantized.engine = engine
    if path.suffix == LITE:
        return TorchScriptRunner(load_lite(path))
    with quiet():
        return TorchScriptRunner(torch.jit.load(str(path), map_location="cpu").eval())
