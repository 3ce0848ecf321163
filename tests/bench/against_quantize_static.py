"""MobileNetV2 for onnxruntime: fxedge against torch.onnx.export + onnxruntime's quantize_static.

From the PyTorch module to the finished int8 file, 128 ImageNet images, weights per channel; then latency of
both files. Each build runs in a process of its own, in turn; ratios are medians over rounds.

    python tests/bench/against_quantize_static.py [--rounds 5] [--method minmax]

Needs the shared data folder (see tests/real/nets.py) and the `bench` extra (onnxscript for torch.onnx.export).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--method", default="minmax")
    parser.add_argument("--latency-runs", type=int, default=200)
    parser.add_argument("--build", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--to", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.build:
        _build(args.build, args.method, args.to)
        return
    with tempfile.TemporaryDirectory() as folder:
        files = {"ours": Path(folder) / "ours.onnx", "peer": Path(folder) / "peer.onnx"}
        _compare_builds(files, args.method, args.rounds)
        for threads in (1, 2):
            _compare_latency(files, threads, args.latency_runs)


def _compare_builds(files: dict[str, Path], method: str, rounds: int) -> None:
    results: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    for _ in range(rounds):
        for name, path in files.items():
            command = [sys.executable, str(HERE), "--build", name, "--method", method, "--to", str(path)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results[name].append(json.loads(done.stdout.splitlines()[-1]))
    for name, rows in results.items():
        seconds, memory = ([row[key] for row in rows] for key in ("seconds", "peak_mb"))
        stages = {key: statistics.median(row[key] for row in rows) for key in rows[0] if key not in ("peak_mb",)}
        print(f"{name}: median {statistics.median(seconds):.1f} s, peak {max(memory):.0f} MB, {_text(stages)}")
    ratios = [o["seconds"] / p["seconds"] for o, p in zip(results["ours"], results["peer"], strict=True)]
    print(f"time ours / peer: median {statistics.median(ratios):.2f} of {rounds} rounds ({_text_list(ratios)})")
    sizes = {name: path.stat().st_size / 1e6 for name, path in files.items()}
    print(f"size: ours {sizes['ours']:.2f} MB, peer {sizes['peer']:.2f} MB")


def _compare_latency(files: dict[str, Path], threads: int, runs: int) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    sessions = {
        name: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for name, path in files.items()
    }
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for index in range(runs + 10):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, {session.get_inputs()[0].name: x})
            if index >= 10:
                seconds[name].append(time.perf_counter() - start)
    ratios = [o / p for o, p in zip(seconds["ours"], seconds["peer"], strict=True)]
    medians = {name: f"{1e3 * statistics.median(values):.2f} ms" for name, values in seconds.items()}
    print(f"latency, {threads} thread(s): {medians}, ours / peer median {statistics.median(ratios):.2f} of {runs}")


def _build(which: str, method: str, path: Path) -> None:
    """Build one artifact and print its seconds by stage and the process's peak memory."""
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(HERE.parents[1]))
    from real import nets

    model = nets.mobilenet_v2()
    start = time.perf_counter()
    stages = (_ours if which == "ours" else _peer)(model, method, path)
    total = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": total, "peak_mb": peak, **stages}))


def _samples(batch_size: int):  # type: ignore[no-untyped-def]
    from fxedge.compiler.pipeline.data import open_dataset
    from fxedge.compiler.pipeline.preprocess import Preprocess
    from real import nets

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    preprocess = Preprocess(mean=mean, std=std, scale=1 / 255)
    return open_dataset(nets.DATA / "imagenet" / "calib", preprocess, ["x"], batch_size)


def _ours(model, method: str, path: Path) -> dict[str, float]:  # type: ignore[no-untyped-def]
    from fxedge.backends import registry
    from fxedge.compiler.pipeline.calibration import collect
    from fxedge.compiler.pipeline.driver import example_inputs
    from fxedge.compiler.pipeline.lower import lower, plan_targets, prepare
    from fxedge.compiler.pipeline.options import CompileOptions
    from fxedge.compiler.quant.collectors import CollectorMethod

    backend = registry.get("onnx")
    options = CompileOptions(recipe="fast", calibration=CollectorMethod.parse(method))
    data = _samples(8)
    clock = [time.perf_counter()]
    prepared = prepare(model, example_inputs(data), options)
    clock.append(time.perf_counter())
    plans = plan_targets(prepared, [backend.spec], options)
    stats = collect(prepared, plans, (batch.inputs for batch in data), options)
    clock.append(time.perf_counter())
    lowered = lower(prepared, backend.spec, plans["onnx"], stats, options)
    backend.emit(lowered.program, path)
    clock.append(time.perf_counter())
    return dict(zip(("capture", "calibrate", "emit"), np.diff(clock).tolist(), strict=True))


def _peer(model, method: str, path: Path) -> dict[str, float]:  # type: ignore[no-untyped-def]
    import torch
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._rows: Iterator[dict[str, np.ndarray]] = ({"x": b.inputs[0].numpy()} for b in _samples(1))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._rows, None)

    methods = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}
    methods["entropy"] = CalibrationMethod.Entropy
    clock = [time.perf_counter()]
    exported = path.with_suffix(".float.onnx")
    batch = torch.export.Dim.DYNAMIC
    torch.onnx.export(
        model, (torch.randn(2, 3, 224, 224),), exported, dynamo=True, dynamic_shapes=({0: batch},), verbose=False
    )
    clock.append(time.perf_counter())
    quantize_static(
        exported,
        path,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        calibrate_method=methods[method.split(":")[0]],
    )
    clock.append(time.perf_counter())
    return dict(zip(("export", "quantize"), np.diff(clock).tolist(), strict=True))


def _text(stages: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.1f}" for key, value in stages.items() if key != "seconds")


def _text_list(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    main()
