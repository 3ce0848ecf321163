"""One bundle as what app developers install: an Android module, a Swift package, a web page, a Python folder.

    python examples/mobile_packaging.py [--out FOLDER]

Every package carries the model, its preprocessing, labels, hashes and golden vectors; the Python one then proves
itself here.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

KINDS = ("android", "ios", "web", "python")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("digits-packages"))
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    bundle, labels = args.out / "bundle", args.out / "labels.txt"
    labels.write_text("".join(f"{digit}\n" for digit in range(10)), encoding="utf-8")
    fxedge("compile", "digits", "--target", "onnx", "--recipe", "fast", "-o", bundle, "--force")
    for kind in KINDS:
        fxedge("package", bundle, "--as", kind, "--labels", labels, "-o", args.out / kind, "--force")
    run(sys.executable, "runner.py", "--self-test", folder=args.out / "python")


def fxedge(*arguments: object) -> None:
    """One command of fxedge; ends this script if it fails."""
    run(sys.executable, "-m", "fxedge", *arguments)


def run(*command: object, folder: Path | None = None) -> None:
    words = [str(word) for word in command]
    print(f"$ {' '.join(words[1:])}", flush=True)
    subprocess.run(words, check=True, cwd=folder)


if __name__ == "__main__":
    main()
