"""Runs the model beside this file: `python runner.py photo.jpg`, or `python runner.py --self-test`.

Needs what requirements.txt lists and nothing else. Every file is checked against its sha256 before it is used.
What is done to an image (`preprocess`) is what the model was calibrated with, to the last bit. Status: 0 done, 1
the self-test failed, 2 wrong input or a damaged package.

In a program of your own:

    package = Package.open("this/folder")
    model = package.load()
    scores = model.run([package.image("photo.jpg")])[0]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV")  # 8 bits for each channel
MAX_IMAGE_PIXELS = 64 * 2**20


class PackageError(Exception):
    """One paragraph: what is wrong, and where."""


class Model(Protocol):
    """A loaded model. `name` is the runtime's, with its version."""

    name: str

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]: ...


@dataclass(frozen=True)
class Package:
    """The files of one folder; `deploy` is its deploy.json."""

    folder: Path
    deploy: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path = Path(__file__).parent) -> Package:
        path = Path(folder) / "deploy.json"
        try:
            return cls(Path(folder), json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise PackageError(f"{path} cannot be read ({error}); unpack the package again.") from error

    def read(self, name: str) -> bytes:
        """The content of a file that has the sha256 of deploy.json."""
        path = self.folder / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise PackageError(f"{path} cannot be read ({error.strerror}); unpack the package again.") from error
        if hashlib.sha256(content).hexdigest() != self.deploy["files"][name]["sha256"]:
            raise PackageError(f"{path} was changed: its sha256 is not the one in deploy.json.")
        return content

    def load(self, threads: int = 1) -> Model:
        """The model in its runtime; loaded from the very bytes that were checked."""
        return LOADERS[self.deploy["runtime"]](self.read(self.deploy["model_file"]), threads)

    def image(self, path: str | Path) -> np.ndarray:
        """A decoded, cropped, resized and preprocessed image: float32 [1, C, H, W]."""
        if (refused := self.deploy["image"].get("refused")) is not None:
            raise PackageError(f"This model takes no images: {refused}. Give its inputs as .npy files.")
        return preprocess(to_raw(decode(Path(path)), self.deploy), self.deploy["preprocess"])

    def labels(self) -> list[str]:
        """One for each class, or nothing."""
        name = self.deploy["labels"]
        return [] if name is None else self.read(name).decode("utf-8").splitlines()

    def golden(self, side: str) -> list[np.ndarray]:
        """The golden "inputs" or "outputs"."""
        entries = self.deploy["golden"][side]
        return [
            np.frombuffer(self.read(entry["file"]), np.dtype(entry["dtype"]).newbyteorder("<")).reshape(
                entry["shape"]
            )
            for entry in entries
        ]


class OnnxModel:
    """ONNX Runtime on the CPU."""

    def __init__(self, content: bytes, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.name = f"onnxruntime {onnxruntime.__version__}"
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._names = [value.name for value in self._session.get_inputs()]

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        outputs: list[np.ndarray] = self._session.run(None, dict(zip(self._names, inputs, strict=True)))
        return outputs


class TfliteModel:
    """LiteRT on the CPU with its XNNPACK delegate."""

    def __init__(self, content: bytes, threads: int) -> None:
        from importlib.metadata import version

        from ai_edge_litert.interpreter import Interpreter

        self.name = f"ai-edge-litert {version('ai-edge-litert')}"
        self._interpreter = Interpreter(model_content=content, num_threads=threads)
        self._interpreter.allocate_tensors()

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        interpreter = self._interpreter
        details = interpreter.get_input_details()
        changed = [
            (detail["index"], value.shape)
            for detail, value in zip(details, inputs, strict=True)
            if tuple(detail["shape"]) != value.shape
        ]
        for index, shape in changed:
            interpreter.resize_tensor_input(index, shape, strict=True)
        if changed:
            interpreter.allocate_tensors()
        for detail, value in zip(details, inputs, strict=True):
            interpreter.set_tensor(detail["index"], np.ascontiguousarray(value))
        interpreter.invoke()
        return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


LOADERS: dict[str, Callable[[bytes, int], Model]] = {"onnxruntime": OnnxModel, "litert": TfliteModel}


def decode(path: Path) -> Any:
    """A Pillow image of 8-bit channels. EXIF orientation is not applied, as when the model was calibrated."""
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise PackageError(f"{path} has more than {MAX_IMAGE_PIXELS} pixels; shrink it.")
            if image.mode not in MODES:
                raise PackageError(f"{path} has pixels of type {image.mode!r}; convert it to 8 bits a channel.")
            return image.convert("RGBA") if "transparency" in image.info else image.copy()
    except PackageError:
        raise
    except Exception as error:  # decoders raise many kinds
        raise PackageError(f"{path} cannot be decoded ({error}); give a JPEG, PNG, BMP or WebP image.") from error


def to_raw(image: Any, deploy: dict[str, Any]) -> np.ndarray:
    """The largest centred part with the model's aspect ratio, resized: uint8 [1, H, W, C]."""
    from PIL import Image, ImageOps

    form = deploy["image"]
    pixels = image.convert("L" if form["channels"] == 1 else "RGB")
    pixels = ImageOps.fit(pixels, (form["width"], form["height"]), method=Image.Resampling.BILINEAR)
    return np.asarray(pixels).reshape(1, form["height"], form["width"], form["channels"])


def preprocess(raw: np.ndarray, steps: dict[str, Any], layout: str = "NHWC") -> np.ndarray:
    """x * scale - mean, then / std, in float32 and rounded after each step; channels first."""
    declared = [steps["scale"] != 1, steps["mean"], steps["std"], steps["layout"] != "none"]
    if not any(declared) and raw.dtype.kind in "biu":
        return np.ascontiguousarray(raw)
    x = np.array(raw.transpose(0, 3, 1, 2) if layout == "NHWC" else raw, dtype=np.float32, order="C")
    shape = () if layout == "none" else (-1, 1, 1)
    if steps["scale"] != 1:
        x *= np.float32(steps["scale"])
    if steps["mean"]:
        x -= np.array(steps["mean"], dtype=np.float32).reshape(shape)
    if steps["std"]:
        x /= np.array(steps["std"], dtype=np.float32).reshape(shape)
    return x


def shares(scores: np.ndarray) -> np.ndarray:
    """Scores that are probabilities already, else their softmax."""
    if scores.min() >= 0 and abs(float(scores.sum()) - 1) < 1e-2:
        return scores
    powers = np.exp(scores.astype(np.float64) - scores.max())
    return powers / powers.sum()


def allowed_lsb(deploy: dict[str, Any]) -> int:
    """The compiler simulates the kernels of x86-64; some runtimes have others elsewhere, which round otherwise."""
    simulated = platform.machine().lower() in ("x86_64", "amd64")
    allowed: int = deploy["tolerance_lsb" if simulated else "tolerance_lsb_elsewhere"]
    return allowed


def difference(
    output: dict[str, Any], deployed: np.ndarray, golden: np.ndarray, deploy: dict[str, Any]
) -> tuple[bool, str]:
    """Whether an output is as the compiler said, and by how much not: in integers where it is quantized."""
    if deployed.shape != golden.shape:
        return False, f"{output['name']} has shape {list(deployed.shape)}, not {list(golden.shape)}"
    off = float(np.abs(deployed.astype(np.float64) - golden.astype(np.float64)).max(initial=0.0))
    if output["scale"] is not None:
        allowed, found = allowed_lsb(deploy), round(off / output["scale"]) if np.isfinite(off) else np.inf
        return found <= allowed, f"{output['name']} is {found} LSB from the golden outputs (allowed {allowed})"
    allowed = deploy["tolerance_float"]
    found = off / max(float(np.abs(golden.astype(np.float64)).max(initial=0.0)), 1e-12)
    text = f"{output['name']} is {found:.2g} of its magnitude from the golden outputs (allowed {allowed:.2g})"
    return found <= allowed, text


def pattern(width: int, height: int, channels: int) -> np.ndarray:
    """The image with which every package checks its preprocessing: uint8 [H, W, C]."""
    y, x, c = np.ogrid[:height, :width, :channels]
    return ((x * 7 + y * 13 + c * 29 + x * y // 8) % 256).astype(np.uint8)


def check_preprocessing(deploy: dict[str, Any]) -> tuple[bool, str]:
    from PIL import Image

    check = deploy["image_check"]
    pixels = pattern(check["width"], check["height"], deploy["image"]["channels"])
    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
    made = preprocess(to_raw(image, deploy), deploy["preprocess"]).astype("<f4").tobytes()
    same = hashlib.sha256(made).hexdigest() == check["sha256"]
    return same, "preprocessing is the compiler's" + (
        ", bit for bit" if same else " no longer: other bits come out"
    )


def self_test(package: Package, threads: int) -> bool:
    """Every file's hash, preprocessing, then the golden vectors; prints what it finds."""
    for name in package.deploy["files"]:
        package.read(name)
    verdicts = [(True, f"{len(package.deploy['files'])} files have their sha256")]
    if package.deploy["image_check"] is not None:
        verdicts.append(check_preprocessing(package.deploy))
    model = package.load(threads)
    deployed = model.run(package.golden("inputs"))
    expected = zip(package.deploy["outputs"], deployed, package.golden("outputs"), strict=True)
    verdicts += [difference(output, found, golden, package.deploy) for output, found, golden in expected]
    for passed, text in verdicts:
        print(f"{'ok    ' if passed else 'FAILED'}  {text}")
    print(f"{'passed' if all(passed for passed, _ in verdicts) else 'FAILED'} on {model.name}")
    return all(passed for passed, _ in verdicts)


def read_arrays(package: Package, paths: Sequence[Path]) -> list[np.ndarray]:
    """Raw data in the declared layout, one file for each input."""
    steps, wanted = package.deploy["preprocess"], package.deploy["inputs"]
    if len(paths) != len(wanted):
        names = ", ".join(tensor["name"] for tensor in wanted)
        raise PackageError(f"{len(paths)} .npy files were given, but the model takes {len(wanted)}: {names}.")
    try:
        raw = [np.load(path, allow_pickle=False) for path in paths]
    except (OSError, ValueError) as error:
        raise PackageError(f"The .npy files cannot be read: {error}.") from error
    for path, array, tensor in zip(paths, raw, wanted, strict=True):
        if steps["layout"] != "none" and array.ndim != 4:
            raise PackageError(
                f"{path} has {array.ndim} axes, but layout {steps['layout']} of {tensor['name']} has 4."
            )
    return [preprocess(array, steps, steps["layout"]) for array in raw]


def classify(package: Package, model: Model, inputs: Sequence[np.ndarray], args: argparse.Namespace) -> None:
    """Prints the classes of each sample, and the latency: the median of some runs after a first one."""
    outputs, seconds = model.run(inputs), []
    for _ in range(args.runs):
        start = time.perf_counter()
        outputs = model.run(inputs)
        seconds.append(time.perf_counter() - start)
    labels = package.labels()
    for at, scores in enumerate(outputs[0] if package.deploy["classes"] else ()):
        if len(outputs[0]) > 1:
            print(f"sample {at}")
        share = shares(scores)
        for rank, index in enumerate(np.argsort(-scores, kind="stable")[: args.top]):
            label = labels[index] if labels else f"class {index}"
            print(f"  {rank + 1}  {label:<32} {100 * share[index]:6.2f} %   score {scores[index]:.4f}")
    if not package.deploy["classes"]:
        for output, value in zip(package.deploy["outputs"], outputs, strict=True):
            print(f"  {output['name']}: {value.dtype} {list(value.shape)}, from {value.min()} to {value.max()}")
    latency = f"{1000 * statistics.median(seconds):.2f} ms, median of {args.runs} runs"
    print(f"  {latency} on {args.threads} thread(s), {model.name}")


def run(args: argparse.Namespace) -> int:
    package = Package.open()
    if args.self_test:
        return 0 if self_test(package, args.threads) else 1
    paths = [Path(text) for text in args.input]
    model = package.load(args.threads)
    if all(path.suffix == ".npy" for path in paths):
        classify(package, model, read_arrays(package, paths), args)
        return 0
    for path in paths:
        inputs = [package.image(path)]
        print(path)
        classify(package, model, inputs, args)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the model of this package.")
    parser.add_argument("input", nargs="*", help="images, or one .npy file for each input of the model")
    parser.add_argument("--self-test", action="store_true", help="check files, preprocessing and golden vectors")
    parser.add_argument("--threads", type=int, default=1, help="threads of the runtime (default: 1)")
    parser.add_argument("--top", type=int, default=5, help="classes shown (default: 5)")
    parser.add_argument("--runs", type=int, default=10, help="timed runs (default: 10)")
    args = parser.parse_args()
    if bool(args.input) == args.self_test or min(args.threads, args.top, args.runs) < 1:
        parser.error("give images, .npy files or --self-test; numbers must be at least 1")
    try:
        return run(args)
    except PackageError as error:
        print(f"error: {error}", file=sys.stderr)
    except ImportError as error:
        print(f"error: {error}; run: pip install -r requirements.txt", file=sys.stderr)
    except Exception as error:  # a runtime's own complaint about an input
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
