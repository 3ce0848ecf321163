"""The table of real networks in the README: accuracy, agreement, parity, size and latency on every target.

    python tests/bench/real_models.py [NAME ...] [--parity-samples 64|all] [--recipe NAME] [--isa NAME]

Needs the shared data folder (see tests/real/nets.py). Prints Markdown.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fxedge import CompileOptions
from fxedge.compiler.pipeline.driver import TargetResult
from real.compiling import REAL_NETS, compile_real

_HEAD = "| network | target | top-1 | agreement | nodes exact | end to end | MB | ms float → int8 |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(REAL_NETS))
    parser.add_argument("--parity-samples", default="64")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--isa", default="safe")
    args = parser.parse_args()
    samples = None if args.parity_samples == "all" else int(args.parity_samples)
    options = CompileOptions(recipe=args.recipe, isa=args.isa, parity_samples=samples, timed_runs=100)
    print(f"{_HEAD}\n|---|---|---|---|---|---|---|---|", flush=True)
    for name in args.names or REAL_NETS:
        with tempfile.TemporaryDirectory() as folder:
            report = compile_real(name, Path(folder) / "bundle", options=options)
        assert report.reference is not None
        assert report.reference.accuracy is not None
        print(f"| {name} | float | {report.reference.accuracy.format()} | | | | | |")
        for target, result in report.results.items():
            print(_row(name, target, result), flush=True)
        for target, error in report.failures.items():
            print(f"| {name} | {target} | failed: {error} | | | | | |")


def _row(name: str, target: str, result: TargetResult) -> str:
    checked = result.checked
    end, latency = checked.end_to_end, checked.latency
    assert checked.accuracy is not None
    assert checked.agreement is not None
    assert latency is not None
    assert latency.float is not None
    exact = sum(node.worst == 0 for node in checked.nodes)
    share = f"{end.worst_lsb} LSB, {end.differing} of {end.total} integers, {end.flips} flips of {end.samples}"
    times = f"{1e3 * latency.float:.2f} → {1e3 * latency.int8:.2f} ({latency.ratio:.2f}×)"
    return (
        f"| {name} | {target} | {checked.accuracy.format()} | {checked.agreement.format()} "
        f"| {exact} of {len(checked.nodes)} | {share} | {result.size / 1e6:.2f} | {times} |"
    )


if __name__ == "__main__":
    main()
