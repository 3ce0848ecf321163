"""Artifacts for processors with and without VNNI: agreement with float here, and the same integers elsewhere.

    python tests/bench/saturation.py [NAME ...] [--targets onnx,x86] [--images 8] [--emulate]

Compiles each network for the instruction set `vnni`, for `avx2`, and with all weights narrowed to 7 bits, which is
the simple way to be safe. Agreement is counted on the test images here; then the first of them run without VNNI:
onnxruntime on an emulated Haswell (needs qemu-x86_64), torch with its libraries told to use AVX2, or with
--emulate on the Haswell too. Needs the shared data folder. Prints Markdown.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from emulated.processes import AVX2, HASWELL, run_elsewhere
from fxedge import CompileOptions, open_dataset
from fxedge.backends import registry
from fxedge.compiler.pipeline.accuracy import Share, top1
from fxedge.compiler.pipeline.calibration import collect
from fxedge.compiler.pipeline.driver import example_inputs
from fxedge.compiler.pipeline.entries import saturation_entry
from fxedge.compiler.pipeline.lower import FloatModel, Lowered, lower, plan_targets, prepare
from real import nets
from real.compiling import REAL_NETS, TARGETS

_HEAD = "| network | target | compiled for | channels repaired | agreement | logits that differ without VNNI |"


@dataclass(frozen=True, slots=True)
class Subject:
    """One network: its float form, test batches and the float predictions on them."""

    name: str
    model: FloatModel
    batches: list[np.ndarray]
    float_top1: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(REAL_NETS))
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--images", type=int, default=8, help="run without VNNI")
    parser.add_argument("--limit", type=int, default=None, help="test images for agreement; default all")
    parser.add_argument("--emulate", action="store_true", help="torch on the emulated processor too")
    args = parser.parse_args()
    print(f"{_HEAD}\n|---|---|---|---|---|---|", flush=True)
    for name in args.names or REAL_NETS:
        options = CompileOptions(recipe=args.recipe)
        subject = read(name, options, args.limit)
        for target in args.targets.split(","):
            for row in compare(subject, target, options, args.images, args.emulate):
                print(row, flush=True)


def read(name: str, options: CompileOptions, limit: int | None) -> Subject:
    net = REAL_NETS[name]
    calibration = open_dataset(nets.DATA / net.calibration, net.preprocess, ["x"], 8)
    test = open_dataset(nets.DATA / net.test, net.preprocess, ["x"], 20)
    model = prepare(
        net.factory(), example_inputs(calibration), options, batches=lambda: (b.inputs for b in calibration)
    )
    images = torch.cat([batch.inputs[0] for batch in test])[:limit]
    with torch.no_grad():
        floats = [model.gm(part).numpy() for part in images.split(20)]
    return Subject(name, model, [part.numpy() for part in images.split(20)], top1(np.concatenate(floats)))


def compare(subject: Subject, target: str, options: CompileOptions, images: int, emulate: bool) -> Iterator[str]:
    """One table row for each way to compile."""
    ways = {
        "vnni": replace(options, isa="vnni"),
        "avx2": replace(options, isa="avx2"),
        "7-bit weights": replace(options, isa="vnni", weight_bits=7),
    }
    with tempfile.TemporaryDirectory() as folder:
        lowered = {way: compiled(subject, target, chosen) for way, chosen in ways.items()}
        paths = {way: Path(folder) / f"{way.split()[0]}-{registry.get(target).artifact}" for way in ways}
        agreement, here = {}, {}
        for way, path in paths.items():
            registry.get(target).emit(lowered[way].program, path)
            runner = registry.get(target).load(path)
            answers = np.concatenate([runner.run([batch])[0] for batch in subject.batches])
            agreement[way] = Share(int((top1(answers) == subject.float_top1).sum()), len(answers))
            here[path] = runner.run([subject.batches[0][:images]])
        there = elsewhere(target, {path: [subject.batches[0][:images]] for path in paths.values()}, emulate)
        for way, path in paths.items():
            different = here[path][0] != there[path][0]
            entry = saturation_entry(lowered[way])
            repaired = "-" if entry is None else f"{entry.repaired} of {entry.channels}"
            yield (
                f"| {subject.name} | {target} | {way} | {repaired} | {agreement[way].format()} "
                f"| {int(different.sum())} of {different.size} |"
            )


def compiled(subject: Subject, target: str, options: CompileOptions) -> Lowered:
    spec = registry.get(target).spec
    plans = plan_targets(subject.model, [spec], options)
    assert subject.model.batches is not None
    stats = collect(subject.model, plans, subject.model.batches(), options)
    return lower(subject.model, spec, plans[target], stats, options)


def elsewhere(
    target: str, artifacts: Mapping[Path, list[np.ndarray]], emulate: bool
) -> dict[Path, list[np.ndarray]]:
    if target == "onnx" or emulate:
        return run_elsewhere(target, artifacts, emulator=HASWELL)
    return run_elsewhere(target, artifacts, environment=AVX2)


if __name__ == "__main__":
    main()
