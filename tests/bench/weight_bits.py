"""The table of weights of few bits: clipping and outlier channel splitting on cifar10_resnet20, 8-bit activations.

    python tests/bench/weight_bits.py [--bits 6 5 4] [--ratios 1 2 5] [--rounding nearest adaround] [--per-tensor]

Top-1 of the onnx artifact on onnxruntime, on the 2,000 test images, with its bootstrap interval, and how many
images get the class that float gives them; calibrated on the 256 calibration images alone. The passes are those of
`fast` and the ones in question, nothing else. Needs the shared data folder (see tests/real/nets.py). Prints
Markdown; `accuracy_table.py bits-6-nearest …` keeps its lines.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from fxedge import CompileOptions, open_dataset, run_passes
from fxedge.backends.onnx import backend
from fxedge.compiler.ir.passes import Pass, PassContext
from fxedge.compiler.ir.shapes import annotate
from fxedge.compiler.pipeline.accuracy import top1
from fxedge.compiler.pipeline.calibration import collect
from fxedge.compiler.pipeline.data import Dataset
from fxedge.compiler.pipeline.lower import FloatModel, copy_graph, plan_targets, prepare
from fxedge.compiler.quant.layer_options import LayerOptions
from fxedge.compiler.quant.program import build_program
from fxedge.passes.clean_qdq import CleanQdq
from fxedge.passes.insert_qdq import InsertQdq
from fxedge.passes.round_weights import RoundWeights
from fxedge.passes.split_outliers import SplitOutliers
from real import nets
from real.bootstrap import Estimate, estimate, over_all, share_equal
from real.compiling import REAL_NETS
from real.measuring import commit, kept
from torch import Tensor

NET = "cifar10_resnet20"
BITS, RATIOS, ROUNDINGS = (6, 5, 4), (1.0, 2.0, 5.0), ("nearest", "adaround")
CLIP, PLAIN = "clip", "minmax"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", nargs="*", type=int, default=BITS)
    parser.add_argument("--ratios", nargs="*", type=float, default=RATIOS, help="percent of channels added")
    parser.add_argument("--rounding", nargs="*", default=ROUNDINGS, help="nearest, adaround or gptq")
    parser.add_argument("--per-tensor", action="store_true")
    args = parser.parse_args()
    pairs = [(bits, rounding) for bits in args.bits for rounding in args.rounding]
    with tempfile.TemporaryDirectory() as folder:
        lines = [measure_line(Path(folder), *pair, args.ratios, args.per_tensor) for pair in pairs]
    print(format_table(lines))


def measure_line(
    folder: Path,
    bits: int,
    rounding: str,
    ratios: Sequence[float] = RATIOS,
    per_tensor: bool = False,
    limit: int | None = None,
    threads: int = 2,
) -> dict[str, Any]:
    """One line of the table as JSON takes it: the classes that each artifact gives and its bytes, by column. Each
    artifact's are kept in `folder`."""
    torch.set_num_threads(threads)
    bench = Bench.load(limit)
    cells: dict[str, dict[str, Any]] = {}
    for method, plain, prefix in (("minmax", PLAIN, ""), ("mse", CLIP, f"{CLIP} + ")):
        usual = LayerOptions(weight_bits=bits, weight_range=method, per_tensor=per_tensor)  # type: ignore[arg-type]
        for ratio in (0.0, *ratios):
            column = plain if ratio == 0 else f"{prefix}split {ratio:g} %"
            parts = (NET, bits, rounding, method, f"{ratio:g}", "tensor" if per_tensor else "channel", limit)
            path = folder / f"{'.'.join(map(str, parts))}.json"
            cells[column] = kept(path, lambda u=usual, r=ratio: bench.quantized(u, r / 100, rounding))
    common = {"float": bench.float_classes.tolist(), "labels": bench.labels().tolist()}
    return {"bits": bits, "rounding": rounding, "per_tensor": per_tensor, "cells": cells, **common}


def format_table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Markdown; of each artifact top-1 and agreement with float, in percent. Lines may lack columns."""
    columns = list(dict.fromkeys(column for line in lines for column in line["cells"]))
    columns.sort(key=lambda column: (column.startswith(f"{CLIP} +"), column not in (PLAIN, CLIP)))
    scales = "one scale" if lines[0]["per_tensor"] else "one scale for each output channel"
    exact = _estimate(lines[0]["float"], lines[0]["labels"])
    rows = [
        f"{NET}, {scales}; top-1 (float: {exact.format()}), agreement with float",
        "",
        f"| bits | rounding | {' | '.join(columns)} | KiB |",
        f"|---|---|{'---|' * len(columns)}---|",
    ]
    for line in lines:
        cells = [_cell_text(line, column) if column in line["cells"] else "" for column in columns]
        size = line["cells"][PLAIN]["bytes"] / 1024
        rows.append(f"| {line['bits']} | {line['rounding']} | {' | '.join(cells)} | {size:.0f} |")
    return "\n".join(rows)


def share_of(line: Mapping[str, Any], column: str, wanted: str) -> float:
    """How many images get the class wanted, "labels" or "float", in percent."""
    return over_all(share_equal(line["cells"][column]["classes"], line[wanted]), len(line[wanted]))


def _cell_text(line: Mapping[str, Any], column: str) -> str:
    exact = _estimate(line["cells"][column]["classes"], line["labels"])
    return f"{exact.format()}, {share_of(line, column, 'float'):.1f}"


def _estimate(classes: Sequence[int], wanted: Sequence[int]) -> Estimate:
    return estimate(share_equal(classes, wanted), len(wanted))


@dataclass(frozen=True, slots=True)
class Bench:
    """The network after the float passes of the `fast` recipe, its data, and the classes that it gives in
    float."""

    model: FloatModel
    calibration: Dataset
    test: Dataset
    float_classes: np.ndarray

    @classmethod
    def load(cls, limit: int | None = None) -> Bench:
        net = REAL_NETS[NET]
        calibration = open_dataset(nets.DATA / net.calibration, net.preprocess, ["x"], 32)
        test = open_dataset(nets.DATA / net.test, net.preprocess, ["x"], 100, limit)
        examples = tuple(tensor[:2] for tensor in next(iter(calibration)).inputs)
        model = prepare(net.factory(), examples, CompileOptions(recipe="fast"))
        with tempfile.TemporaryDirectory() as folder:
            backend.emit_float(model.gm, Path(folder) / "float.onnx")
            return cls(model, calibration, test, _classes(Path(folder) / "float.onnx", test))

    def batches(self) -> Iterator[tuple[Tensor, ...]]:
        return (batch.inputs for batch in self.calibration)

    def labels(self) -> np.ndarray:
        return np.concatenate([np.asarray(batch.labels) for batch in self.test])

    def quantized(self, usual: LayerOptions, ratio: float, rounding: str) -> dict[str, Any]:
        """The classes that the onnx artifact gives, its bytes and the commit, with weights as `usual` says and
        `ratio` of the channels split."""
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
            classes = _classes(path, self.test).tolist()
            return {"classes": classes, "bytes": path.stat().st_size, "commit": commit()}


def _classes(artifact: Path, data: Dataset) -> np.ndarray:
    """The class that the artifact gives each image."""
    runner = backend.load(artifact)
    answers = [runner.run([tensor.numpy() for tensor in batch.inputs])[0] for batch in data]
    return top1(np.concatenate(answers))


def _rounding(name: str) -> Sequence[Pass]:
    """The pass on the quantized graph that rounds the weights; InsertQdq itself rounds to nearest."""
    if name == "nearest":
        return ()
    return (RoundWeights(name),)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
