"""The table of reference models: whether each compiles for each runtime, and what its check finds.

    python tests/bench/zoo_table.py [MODEL ...] [--target NAME,...] [--recipe fast] [--keep FOLDER] [--write FILE]

Each model is compiled as a user would, on 32 samples of random values, and verified node by node and end to end in
the real runtime. What is in --keep is not made again. Status 1 where a model is refused. Prints Markdown.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from bench.workshop import put_table, replace_table
from fxedge import CompileOptions, compile_model, from_arrays
from fxedge.compiler.pipeline.driver import CompileReport
from fxedge.models import catalog  # noqa: F401  fills the registry
from fxedge.models import registry as zoo
from real.measuring import in_own_process, kept

SAMPLES = 32
TARGETS = ("fbgemm", "x86", "onednn", "qnnpack", "onnx", "openvino", "tflite", "executorch", "tensorrt")


@dataclass(frozen=True, slots=True)
class Found:
    """What the check of one model on one target found; `error` is its first line where there is no artifact."""

    nodes: int = 0
    worst: int = 0
    end: str = ""
    floats: int = 0
    error: str = ""

    def format(self) -> str:
        if self.error:
            return f"**refused**: {self.error}"
        exact = f"{self.nodes} nodes" + (f" within {self.worst}" if self.worst else "")
        floats = f", {self.floats} float" if self.floats else ""
        return f"{exact}{floats}; {self.end}" if self.nodes else f"float alone ({self.floats}); {self.end}"


def main() -> int:
    args = _parse()
    if args.write is not None:
        replace_table(args.write.read_text("utf-8"), "zoo", "")  # better now than after an hour
    with tempfile.TemporaryDirectory() as folder:
        keep = args.keep or Path(folder)
        keep.mkdir(parents=True, exist_ok=True)
        rows = {name: found(keep, name, args.target, args.recipe) for name in args.models}
    text = as_table(rows)
    print(text)
    if args.write is not None:
        put_table(args.write, "zoo", text)
    return int(any(cell.error for row in rows.values() for cell in row.values()))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", default=zoo.names())
    parser.add_argument("--target", type=lambda text: text.split(","), default=list(TARGETS))
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--keep", type=Path, help="folder of what was found; what is in it is not made again")
    parser.add_argument("--write", type=Path, help="document whose table is replaced by the one printed")
    return parser.parse_args()


def found(keep: Path, name: str, targets: Sequence[str], recipe: str) -> dict[str, Found]:
    """From `keep`, or compiled in a process of its own."""
    path = keep / f"{name}.{'+'.join(targets)}.{recipe}.json"
    raw = kept(path, lambda: in_own_process(compiled, name, targets, recipe))
    return {target: Found(**fields) for target, fields in raw.items()}


def compiled(name: str, targets: Sequence[str], recipe: str) -> dict[str, dict[str, object]]:
    """`Found` by target, as dictionaries."""
    print(f"compiling {name}", file=sys.stderr, flush=True)
    torch.set_num_threads(1)
    entry = zoo.get(name)
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(_samples(example, generator) for example in entry.example_inputs())
    data = from_arrays([inputs], input_names=[f"x{index}" for index in range(len(inputs))])
    options = CompileOptions(recipe=recipe, timed_runs=0, threads=1, parity_samples=8 if entry.full_size else None)
    with tempfile.TemporaryDirectory() as folder:
        report = compile_model(entry.factory(), data, targets, Path(folder) / "bundle", options=options)
    return {target: asdict(_found(report, target)) for target in targets}


def _found(report: CompileReport, target: str) -> Found:
    if target in report.failures:
        return Found(error=str(report.failures[target]).partition("\n")[0])
    checked = report.results[target].checked
    end = checked.end_to_end
    parts = (
        f"{end.worst_lsb} LSB" if end.total else "",
        f"{end.worst_float:.1g} of float" if end.worst_float else "",
    )
    return Found(
        len(checked.nodes),
        max((node.worst for node in checked.nodes), default=0),
        ", ".join(filter(None, parts)) or "the same",
        len(report.results[target].lowered.plan.floats),
    )


def _samples(example: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """`SAMPLES` samples of the shape of the example's: its own distribution, or integers from its range."""
    shape = (SAMPLES, *example.shape[1:])
    if example.is_floating_point():
        return torch.randn(shape, generator=generator) * example.std() + example.mean()
    low, high = int(example.min()), int(example.max()) + 1
    return torch.randint(low, high, shape, generator=generator, dtype=example.dtype)


def as_table(rows: dict[str, dict[str, Found]]) -> str:
    """Markdown: a line for each model, a column for each target."""
    targets = list(next(iter(rows.values())))
    lines = [f"| model | {' | '.join(targets)} |", "|---" * (len(targets) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(cell.format() for cell in row.values())} |" for name, row in rows.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
