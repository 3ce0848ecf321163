"""A TFLite artifact in LiteRT's interpreter, XNNPACK delegate on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..base import InputFact


@dataclass(slots=True)
class TfliteRunner:
    """One interpreter on the CPU; it allocates anew when an input's shape changes."""

    interpreter: Any

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Outputs in order, exposed integers after them; inputs in placeholder order."""
        details = self.interpreter.get_input_details()
        changed = False
        for detail, value in zip(details, inputs, strict=True):
            if tuple(detail["shape"]) != value.shape:
                self.interpreter.resize_tensor_input(detail["index"], value.shape, strict=True)
                changed = True
        if changed:
            self.interpreter.allocate_tensors()
        for detail, value in zip(details, inputs, strict=True):
            self.interpreter.set_tensor(detail["index"], np.ascontiguousarray(value))
        self.interpreter.invoke()
        return [self.interpreter.get_tensor(detail["index"]) for detail in self.interpreter.get_output_details()]

    def input_facts(self) -> tuple[InputFact, ...]:
        return tuple(_fact(detail) for detail in self.interpreter.get_input_details())


def load(path: Path, threads: int = 1, delegate: bool = True) -> TfliteRunner:
    """Open `path` with `threads` threads; without the XNNPACK delegate, TFLite's own kernels run everything."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kind = OpResolverType.AUTO if delegate else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(str(path), num_threads=threads, experimental_op_resolver_type=kind)
    interpreter.allocate_tensors()
    return TfliteRunner(interpreter)


def _fact(detail: dict[str, Any]) -> InputFact:
    shape = tuple(int(size) if size > 0 else None for size in detail["shape_signature"])
    scale, zero_point = detail["quantization"]
    return InputFact(detail["name"], shape, np.dtype(detail["dtype"]).name, float(scale) or None, int(zero_point))
