"""Runs the artifacts of bundles on processors that this machine has not, and compares integers with the simulator.

    tests/emulated/setup_arm64.sh DEST [--torch]
    python tests/emulated/check.py BUNDLE... [--arm64 DEST] [--haswell] [--tflite-runtime PYTHON] [--target TARGET]

Without flags it runs on this processor alone. `--haswell` is x86-64 with AVX2 and without VNNI, in this Python
under qemu-x86_64 (importing torch there takes a minute); `--arm64` is a Neoverse N1, in the Python that
setup_arm64.sh made. `--tflite-runtime` is a Python that has tflite-runtime 2.14 in place of LiteRT, with numpy
below 2 and safetensors: how far its older kernels are is shown and is no failure. Exit status 1 where a target
that the manifest calls exact differs, or one does not run. What is compiled without `--isa avx2` may saturate on
Haswell, and then differs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_REPLAY = Path(__file__).with_name("replay.py")
OLD_RUNTIME = "tflite-runtime"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--arm64", type=Path, metavar="DEST", help="where setup_arm64.sh put its Python")
    parser.add_argument("--haswell", action="store_true")
    parser.add_argument("--tflite-runtime", type=Path, metavar="PYTHON", help="of an environment that has it")
    parser.add_argument("--target", action="append", default=[], help="of each bundle; all unless given")
    args = parser.parse_args()
    table, failed = Table("bundle", "target", "processor", "difference", "values", "differing"), False
    for bundle in args.bundles:
        manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        runs = [(cpu, python, args.target) for cpu, python in processors(args.arm64, args.haswell).items()]
        flatbuffers = [name for name in args.target or manifest["targets"] if _is_tflite(manifest, name)]
        if args.tflite_runtime is not None and flatbuffers:
            runs.append((OLD_RUNTIME, [str(args.tflite_runtime)], flatbuffers))
        for cpu, python, targets in runs:
            for said in replayed(python, bundle, targets):
                exact = cpu != OLD_RUNTIME and manifest["targets"][said["target"]]["parity"]["exact"]
                failed |= "error" in said or (exact and any(out.get("worst_lsb", 0) for out in said["outputs"]))
                for cells in _cells(said):
                    table.add_row(bundle.name, said["target"], cpu, *cells)
    Console().print(table)
    sys.exit(int(failed))


def processors(arm64: Path | None, haswell: bool) -> dict[str, list[str]]:
    """The command of a Python on each processor."""
    found = {"this": [sys.executable]}
    if haswell:
        emulator = arm64 / "bin" / "qemu-x86_64" if arm64 is not None else shutil.which("qemu-x86_64")
        if emulator is None:
            sys.exit("--haswell needs qemu-x86_64: install qemu-user, or give --arm64, whose folder has one")
        found["haswell"] = [str(emulator), "-cpu", "Haswell", sys.executable]
    if arm64 is not None:
        python = arm64 / "arm64-python"
        if not python.exists():
            sys.exit(f"{python} is not there; tests/emulated/setup_arm64.sh {arm64} makes it")
        found["arm64"] = [str(python)]
    return found


def _is_tflite(manifest: dict[str, Any], target: str) -> bool:
    return str(manifest["targets"][target]["artifact"]).endswith(".tflite")


def replayed(python: Sequence[str], bundle: Path, targets: Sequence[str]) -> list[dict[str, Any]]:
    """What replay.py says of each target."""
    command = [*python, str(_REPLAY), str(bundle), *targets]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        sys.exit(f"{' '.join(command)} ended with status {done.returncode}: {done.stderr[-1000:]}")
    return [json.loads(line) for line in lines]


def _cells(said: dict[str, Any]) -> list[tuple[str, str, str]]:
    """A row for each output."""
    if "error" in said:
        return [(said["error"], "-", "-")]
    return [
        (
            f"{out['worst_lsb']} LSB" if "worst_lsb" in out else f"{out['worst_float']:.2g} of its magnitude",
            str(out["total"]),
            str(out["differing"]),
        )
        for out in said["outputs"]
    ]


if __name__ == "__main__":
    main()
