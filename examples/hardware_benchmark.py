"""What int8 brings on this machine: predicted, measured, recorded, and compared with an earlier record.

    python examples/hardware_benchmark.py [--out FOLDER] [--target NAME,...] [--runs N]

Run it again with the same folder, after an update say, and it tells what became slower.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("digits-benchmark"))
    parser.add_argument("--target", default="onnx", help="targets to measure, joined by commas")
    parser.add_argument("--runs", default="100", help="timed runs of each artifact, at most")
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    bundle, now, before = (args.out / name for name in ("bundle", "now.json", "before.json"))
    fxedge("predict", "digits", "--target", args.target)
    fxedge("compile", "digits", "--target", args.target, "--recipe", "fast", "-o", bundle, "--force")
    if now.is_file():
        now.replace(before)
    fxedge("bench", bundle, "--runs", args.runs, "--json", now)
    if before.is_file():
        status = fxedge("bench", "--compare", before, now, allowed=(0, 1))
        print("something is slower than it was" if status else "nothing is slower than it was")


def fxedge(*arguments: object, allowed: tuple[int, ...] = (0,)) -> int:
    """The exit status of one command of fxedge; ends this script with any that is not `allowed`."""
    words = [str(word) for word in arguments]
    print(f"$ fxedge {' '.join(words)}", flush=True)
    status = subprocess.run([sys.executable, "-m", "fxedge", *words], check=False).returncode
    if status not in allowed:
        raise SystemExit(status)
    return status


if __name__ == "__main__":
    main()
