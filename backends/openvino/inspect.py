"""What OpenVINO's own transformations made of an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...compiler.quant.program import FloatStep, IntegerStep, Program
from .loader import load

_PRODUCTS = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})


def unfused(program: Program, path: Path) -> tuple[str, ...]:
    """Names of convolutions, linears and matrix products planned as int8 that run in float."""
    floats = {step.name for step in program.steps if isinstance(step, FloatStep)}
    planned = {step.anchor.name for step in program.steps if isinstance(step, IntegerStep)} - floats
    found = []
    for operation in load(path).compiled.get_runtime_model().get_ordered_ops():
        facts = operation.get_rt_info()
        if _fact(facts, "layerType") in _PRODUCTS and _fact(facts, "runtimePrecision") not in ("u8", "i8"):
            origins = {name.partition("/")[0] for name in _fact(facts, "originalLayersNames").split(",")}
            found += sorted(planned & origins)
    return tuple(found)


def _fact(facts: Any, key: str) -> str:
    return str(facts[key].astype(str)) if key in facts else ""
