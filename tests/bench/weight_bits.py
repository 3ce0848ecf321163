"""The table of weights of few bits: clipping and outlier channel splitting on cifar10_resnet20, 8-bit activations.

    python tests/bench/weight_bits.py [--bits 6 5 4] [--ratios 1 2 5] [--rounding nearest adaround] [--per-tensor]

Top-1 of the onnx artifact on onnxruntime, on the 2,000 test images, with the Wilson interval, and how many images
get the class that float gives them; calibrated on the 256 calibration images alone. Needs the shared data folder
(see tests/real/nets.py). Prints Markdown.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from fxedge import CompileOptions, open_dataset, run_passes
from fxedge.backends.onnx import backend
from fxedge.compiler.ir.passes import Pass, PassContext
from fxedge.compiler.ir.shapes import annotate
from fxedge.compiler.pipeline.accuracy import Share, accuracy, top1
from fxedge.compiler.pipeline.data import Dataset
from fxedge.compiler.pipeline.lower import FloatModel, collect, copy_graph, plan_targets, prepare
from fxedge.compiler.quant.layer_options import LayerOptions
from fxedge.compiler.quant.program import build_program
from fxedge.passes.clean_qdq import CleanQdq
from fxedge.passes.insert_qdq import InsertQdq
from fxedge.passes.split_outliers import SplitOutliers
from real import nets
from real.compiling import REAL_NETS
from torch import Tensor

NET = "cifar10_resnet20"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", nargs="*", type=int, default=[6, 5, 4])
    parser.add_argument("--ratios", nargs="*", type=float, default=[1, 2, 5], help="percent of channels added")
    parser.add_argument("--rounding", nargs="*", default=["nearest"], help="nearest, adaround or gptq")
    parser.add_argument("--per-tensor", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench.load()
    scales = "one scale" if args.per_tensor else "one scale for each output channel"
    print(f"{NET}, {scales}; float: {accuracy(bench.float_classes, bench.labels()).format()}\n")
    columns = ["minmax", "clip", *(f"split {r:g} %" for r in args.ratios)]
    columns += [f"clip + split {r:g} %" for r in args.ratios]
    print(f"| bits | rounding | {' | '.join(columns)} | KiB |\n|---|---|{'---|' * len(columns)}---|", flush=True)
    for bits in args.bits:
        for rounding in args.rounding:
            cells, size = [], 0
            for method in ("minmax", "mse"):
                usual = LayerOptions(weight_bits=bits, weight_range=method, per_tensor=args.per_tensor)
                row = [bench.quantized(usual, ratio / 100, rounding) for ratio in (0, *args.ratios)]
                size = row[0].bytes
                cells.append([f"{cell.top1.format()}, {100 * cell.agreement:.1f} %" for cell in row])
            (plain, *split), (clip, *both) = cells
            text = " | ".join([plain, clip, *split, *both])
            print(f"| {bits} | {rounding} | {text} | {size / 1024:.0f} |", flush=True)


@dataclass(frozen=True, slots=True)
class Cell:
    """Accuracy, agreement with float and size of one artifact."""

    top1: Share
    agreement: float
    bytes: int


@dataclass(frozen=True, slots=True)
class Bench:
    """The network after the float passes of the `fast` recipe, its data, and the classes that it gives in
    float."""

    model: FloatModel
    calibration: Dataset
    test: Dataset
    float_classes: np.ndarray

    @classmethod
    def load(cls) -> Bench:
        net = REAL_NETS[NET]
        calibration = open_dataset(nets.DATA / net.calibration, net.preprocess, ["x"], 32)
        test = open_dataset(nets.DATA / net.test, net.preprocess, ["x"], 100)
        examples = tuple(tensor[:2] for tensor in next(iter(calibration)).inputs)
        model = prepare(net.factory(), examples, CompileOptions(recipe="fast"))
        with tempfile.TemporaryDirectory() as folder:
            backend.emit_float(model.gm, Path(folder) / "float.onnx")
            return cls(model, calibration, test, _classes(Path(folder) / "float.onnx", test))

    def batches(self) -> Iterator[tuple[Tensor, ...]]:
        return (batch.inputs for batch in self.calibration)

    def labels(self) -> np.ndarray:
        return np.concatenate([np.asarray(batch.labels) for batch in self.test])

    def quantized(self, usual: LayerOptions, ratio: float, rounding: str) -> Cell:
        """The onnx artifact with weights as `usual` says, `ratio` of the channels split."""
        gm = copy_graph(self.model.gm)
        context = PassContext(example_inputs=self.model.examples, batches=self.batches)
        report = run_passes(gm, [SplitOutliers(ratio, usual)] if ratio else [], context)
        assert all(result.rolled_back is None for result in report.values())
        annotate(gm)
        split = replace(self.model, gm=gm)
        options = CompileOptions(
            weight_bits=usual.weight_bits or 8,
            weight_range=usual.weight_range or "minmax",
            per_tensor_weights=bool(usual.per_tensor),
        )
        plan = plan_targets(split, [backend.spec], options)["onnx"]
        stats = collect(split, {"onnx": plan}, self.batches(), options)
        integers = copy_graph(gm)
        context = PassContext(backend.spec, self.model.examples, batches=self.batches, reference=gm)
        run_passes(integers, [InsertQdq(plan, stats), CleanQdq(), *_rounding(rounding)], context)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / backend.artifact
            backend.emit(build_program(integers, backend.spec), path)
            found = _classes(path, self.test)
            agreement = accuracy(found, self.float_classes).value
            return Cell(accuracy(found, self.labels()), agreement, path.stat().st_size)


def _classes(artifact: Path, data: Dataset) -> np.ndarray:
    """The class that the artifact gives each image."""
    runner = backend.load(artifact)
    answers = [runner.run([tensor.numpy() for tensor in batch.inputs])[0] for batch in data]
    return top1(np.concatenate(answers))


def _rounding(name: str) -> Sequence[Pass]:
    """The pass on the quantized graph that rounds the weights; InsertQdq itself rounds to nearest."""
    if name == "nearest":
        return ()
    return (import_module("fxedge.passes.round_weights").RoundWeights(name),)


if __name__ == "__main__":
    main()
