"""How much longer `fxedge compile` takes with a recipe than plainly (`fast`): whole commands by turns.

    python tests/bench/compile_time.py [NET] [--target onnx] [--recipe default] [--pairs 6] [--threads N]

Two ratios with their intervals: of the commands from start to end, as who types them waits for them, and of what
the commands say that they spent from the module to the artifact and on its check. On the network's calibration
images; --threads is that of torch (default: its own). Needs the shared data folder (see tests/real/nets.py).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fxedge.compiler.tools.bench.figures import paired_ratio
from real import nets
from real.compiling import REAL_NETS
from real.measuring import FAST


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", nargs="?", choices=REAL_NETS, metavar="NET", default="mobilenet_v2")
    parser.add_argument("--target", default="onnx")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    whole: dict[str, list[float]] = {FAST: [], args.recipe: []}
    inside: dict[str, list[float]] = {FAST: [], args.recipe: []}
    for _ in range(args.pairs):
        for recipe in whole:
            seconds, said = compile_seconds(args.net, args.target, recipe, args.threads)
            whole[recipe].append(seconds)
            inside[recipe].append(said)
        print(", ".join(f"{r} {whole[r][-1]:.1f} s ({inside[r][-1]:.1f})" for r in whole), flush=True)
    for what, found in (("whole command", whole), ("(from the module on)", inside)):
        print(f"{what}: {args.recipe} / {FAST} {paired_ratio(found[args.recipe], found[FAST]).format()}")


def compile_seconds(name: str, target: str, recipe: str, threads: int | None) -> tuple[float, float]:
    """The whole command, and what it says of itself: module to artifact, and the check."""
    net = REAL_NETS[name]
    preprocess = net.preprocess.model_dump(mode="json", exclude_defaults=True)
    environment = dict(os.environ) if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "fxedge.toml"
        fields = [f"{key} = {json.dumps(value)}" for key, value in preprocess.items()]
        config.write_text("\n".join(["[preprocess]", *fields]), encoding="utf-8")
        model, calib = f"{nets.__file__}:{name}", str(nets.DATA / net.calibration)
        command = [sys.executable, "-m", "fxedge", "compile", model, "--calib", calib, "--config", str(config)]
        command += ["--recipe", recipe, "--target", target, "--json", "--quiet", "-o", f"{folder}/bundle"]
        start = time.perf_counter()
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
        seconds = time.perf_counter() - start
    said = json.loads(done.stdout)["seconds"]
    return seconds, said["module_to_artifact"] + said["verification"]


if __name__ == "__main__":
    main()
