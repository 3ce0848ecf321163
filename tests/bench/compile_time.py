"""How much longer a recipe compiles than a plain compile (`fast`): whole compilations by turns, with the check.

    python tests/bench/compile_time.py [NET] [--target onnx] [--recipe default] [--pairs 6] [--threads 1]

Each in a process of its own, on the network's calibration samples. Needs the shared data folder (see
tests/real/nets.py).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from fxedge import CompileOptions
from fxedge.compiler.pipeline.driver import compile_model
from fxedge.compiler.pipeline.memory import keep_freed_memory
from fxedge.compiler.tools.bench.figures import paired_ratio
from real.judged import JUDGED
from real.measuring import FAST, in_own_process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", nargs="?", metavar="NET", default="mobilenet_v2", help=", ".join(JUDGED))
    parser.add_argument("--target", default="onnx")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    found: dict[str, list[float]] = {FAST: [], args.recipe: []}
    for _ in range(args.pairs):
        for recipe, seconds in found.items():
            seconds.append(in_own_process(compile_seconds, args.net, args.target, recipe, args.threads))
        print(", ".join(f"{recipe} {seconds[-1]:.1f} s" for recipe, seconds in found.items()), flush=True)
    print(f"{args.recipe} / {FAST}: {paired_ratio(found[args.recipe], found[FAST]).format()}")


def compile_seconds(net: str, target: str, recipe: str, threads: int) -> float:
    """From the module to the bundle, as the command line does it."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    judged = JUDGED[net]
    model, data = judged.factory(), judged.calibration()
    options = CompileOptions(recipe=recipe, threads=threads, dynamic_axes=judged.dynamic_axes)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        compile_model(model, data, [target], Path(folder) / "bundle", options=options)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
