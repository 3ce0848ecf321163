"""What goes beside the model: the script that builds the engine, the same as a trtexec line, and the scales alone
for builders of another kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...compiler.ir.nodes import input_name, placeholders
from ...compiler.ir.sizes import complete, shape
from ...compiler.quant.program import Program
from . import build_engine
from .calibration_cache import calibration_cache

SCRIPT = "build_engine.py"
TRTEXEC = "trtexec.sh"
CACHE = "calibration.cache"
_OTHER = 64  # the usual size of a varying axis that is not the batch; to be edited


def companions(program: Program) -> Mapping[str, bytes]:
    """File name -> content."""
    script = Path(build_engine.__file__).read_bytes()
    return {SCRIPT: script, TRTEXEC: trtexec(program).encode(), CACHE: calibration_cache(program).encode()}


def trtexec(program: Program) -> str:
    """A shell script with the trtexec line that builds what `build_engine.py` builds."""
    complete(program.gm)
    dynamic = {input_name(node): shape(node) for node in placeholders(program.gm)}
    dynamic = {name: sizes for name, sizes in dynamic.items() if not all(isinstance(size, int) for size in sizes)}
    lines = [
        "trtexec",
        "--onnx=model.onnx",
        "--saveEngine=model.plan",
        "--timingCacheFile=timing.cache",
        "--noTF32",
    ]
    for flag, batch in zip(("minShapes", "optShapes", "maxShapes"), build_engine.BATCH, strict=True):
        named = [f"{name}:{_sizes(sizes, batch)}" for name, sizes in dynamic.items()]
        lines += [f"--{flag}={','.join(named)}"] if named else []
    command = " \\\n    ".join([*lines, "$strong"])
    edited = any(not isinstance(size, int) for sizes in dynamic.values() for size in sizes[1:])
    note = f"# Axes other than the batch stand at {_OTHER}: edit them.\n" if edited else ""
    return (
        "#!/bin/sh\n"
        "# Builds the engine as build_engine.py does. Not run by fxedge: no TensorRT was at hand.\n"
        f"{note}"
        "# TensorRT 10 must be told that the network is strongly typed; in 11 every network is.\n"
        'cd "$(dirname "$0")" || exit 1\n'
        "strong=\n"
        "trtexec --help 2>&1 | grep -q -- --stronglyTyped && strong=--stronglyTyped\n"
        f"exec {command}\n"
    )


def _sizes(sizes: tuple[object, ...], batch: int) -> str:
    first, *rest = sizes
    known = [size if isinstance(size, int) else _OTHER for size in rest]
    return "x".join(str(size) for size in (first if isinstance(first, int) else batch, *known))
