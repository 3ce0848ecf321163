"""Artifacts of a bundle on this processor, against the integers that the simulator gave.

    python replay.py BUNDLE [TARGET...]

Needs numpy, safetensors and the runtimes, not fxedge: it runs where torch has no build. Prints a line of JSON for
each target: for each output the largest difference from the golden outputs that the bundle carries and how many
values differ, in LSB where the output is quantized, else relative to its magnitude; or why it could not run.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


def main() -> None:
    bundle, wanted = Path(sys.argv[1]), sys.argv[2:]
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    for target in wanted or manifest["targets"]:
        said: dict[str, Any] = {"target": target, "machine": platform.machine()}
        try:
            said["outputs"] = replay(bundle, manifest, target)
        except Exception as error:  # one runtime that is not there must not hide the others
            said["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(said), flush=True)


def replay(bundle: Path, manifest: Mapping[str, Any], target: str) -> list[dict[str, Any]]:
    """What each output of a target differs by."""
    entry = manifest["targets"][target]
    golden_outputs = kernels_here(entry)["golden"]
    for name in (entry["artifact"], golden_outputs, manifest["golden_inputs"]):
        if hashlib.sha256((bundle / name).read_bytes()).hexdigest() != manifest["files"][name]["sha256"]:
            raise ValueError(f"{name} is not the file that the manifest names")
    given = load_file(bundle / manifest["golden_inputs"])
    golden = load_file(bundle / golden_outputs)
    run = load(bundle / entry["artifact"], target)
    outputs = run([given[tensor["name"]] for tensor in manifest["inputs"]])
    return [
        compare(output, deployed, golden[output["name"]])
        for output, deployed in zip(entry["outputs"], outputs, strict=True)
    ]


def kernels_here(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a target's entry says of the kernels of this processor: the entry itself unless it has others."""
    arm64 = platform.machine() in ("aarch64", "arm64")
    return entry.get("kernels", {}).get("neon", entry) if arm64 else entry


def compare(output: Mapping[str, Any], deployed: np.ndarray, golden: np.ndarray) -> dict[str, Any]:
    """The worst difference of one output, and how many of its values differ."""
    off = np.abs(deployed.astype(np.float64) - golden.astype(np.float64))
    if output["scale"] is not None:
        lsb = np.rint(off / output["scale"]).astype(np.int64)
        return {"worst_lsb": int(lsb.max()), "differing": int(np.count_nonzero(lsb)), "total": lsb.size}
    worst = float(off.max() / max(float(np.abs(golden).max()), 1e-30))
    return {"worst_float": worst, "differing": int(np.count_nonzero(off)), "total": off.size}


def load(path: Path, target: str) -> Run:
    """The runtime that a file is for, by its suffix; optimizer on, one thread."""
    loaders = {".onnx": _load_onnx, ".tflite": _load_tflite}
    if path.suffix in loaders:
        return loaders[path.suffix](path)
    return _load_torch(path, target)


def _load_onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))


def _load_tflite(path: Path) -> Run:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError:
        from tflite_runtime.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)

    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        details = interpreter.get_input_details()
        for detail, value in zip(details, inputs, strict=True):
            interpreter.resize_tensor_input(detail["index"], value.shape)
        interpreter.allocate_tensors()
        for detail, value in zip(details, inputs, strict=True):
            interpreter.set_tensor(detail["index"], np.ascontiguousarray(value))
        interpreter.invoke()
        return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]

    return run


def _load_torch(path: Path, engine: str) -> Run:
    import warnings

    import torch

    warnings.filterwarnings("ignore")  # torch deprecates what these artifacts are made of
    torch.set_num_threads(1)
    torch.backends.quantized.engine = engine
    if path.suffix == ".ptl":
        from torch.jit.mobile import _load_for_lite_interpreter

        module = _load_for_lite_interpreter(str(path))
    else:
        module = torch.jit.load(str(path), map_location="cpu").eval()

    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        with torch.inference_mode():
            found = module(*(torch.from_numpy(np.ascontiguousarray(value)) for value in inputs))
        return [tensor.numpy() for tensor in (found if isinstance(found, tuple) else (found,))]

    return run


if __name__ == "__main__":
    main()
