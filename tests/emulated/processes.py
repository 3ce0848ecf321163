"""Artifacts in a process that has no VNNI: on an emulated Haswell, or with libraries told to take AVX2 kernels."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

# What makes fbgemm and oneDNN take their kernels for AVX2, or for AVX-512 without VNNI.
AVX2 = {"FBGEMM_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
AVX512 = {"FBGEMM_ENABLE_INSTRUCTIONS": "AVX512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
# onnxruntime asks the processor, so that takes another processor.
HASWELL = ("qemu-x86_64", "-cpu", "Haswell")

_CHILD = """
import sys
import numpy
from pathlib import Path
from fxedge.backends import registry
target, *paths = sys.argv[1:]
load = registry.get(target).load
for path in paths:
    with numpy.load(path + ".npz") as given:
        inputs = [given[name] for name in given.files]
    numpy.savez(path + ".out.npz", *load(Path(path), 1).run(inputs))
"""


def needs_qemu() -> None:
    """Skip where there is no emulator."""
    if shutil.which(HASWELL[0]) is None:
        pytest.skip(f"needs {HASWELL[0]} to emulate a processor without VNNI; install qemu-user")


def run_elsewhere(
    target: str,
    artifacts: Mapping[Path, Sequence[np.ndarray]],
    environment: Mapping[str, str] | None = None,
    emulator: Sequence[str] = (),
) -> dict[Path, list[np.ndarray]]:
    """Outputs of each artifact for its inputs, from one process of its own."""
    for path, inputs in artifacts.items():
        np.savez(f"{path}.npz", *inputs)
    command = [*emulator, sys.executable, "-W", "ignore", "-c", _CHILD, target, *map(str, artifacts)]
    done = subprocess.run(
        command, env=os.environ | (environment or {}), capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {path: _outputs(path) for path in artifacts}


def _outputs(path: Path) -> list[np.ndarray]:
    with np.load(f"{path}.out.npz") as given:
        return [given[name] for name in given.files]
