"""From a PyTorch module and its data to an int8 model that a server runs without fxedge or torch.

    python examples/compile_and_deploy.py [--out FOLDER] [--recipe NAME]

Compiles for onnxruntime, checks the bundle again as whoever receives it would, and classifies images with
onnxruntime alone, preprocessed as the manifest says.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import fxedge
import numpy as np
import onnxruntime
from fxedge.models.digits import PREPROCESSING, digits, digits_data

TARGET = "onnx"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("digits-served"))
    parser.add_argument("--recipe", default="default", help="fast, default or best")
    args = parser.parse_args()

    compile_bundle(args.out, args.recipe)
    if not fxedge.verify_bundle(args.out).passed:
        raise SystemExit(f"{args.out} does not compute here what it was compiled to compute")
    data = digits_data()
    found = serve(args.out, data.test_images)
    print(f"served {len(found)} images with onnxruntime alone: {(found == data.test_labels).mean():.1%} right")


def compile_bundle(out: Path, recipe: str) -> None:
    """The bundle, and what is worth knowing of it on stdout."""
    data = digits_data()
    preprocess = fxedge.Preprocess(
        scale=PREPROCESSING.scale, mean=PREPROCESSING.mean, std=PREPROCESSING.std, layout="NHWC", dtype="uint8"
    )
    report = fxedge.compile_model(
        digits(),
        fxedge.from_arrays(data.calib_images, preprocess, ["image"]),
        [TARGET],
        out,
        evaluation=fxedge.from_arrays(data.test_images, preprocess, ["image"], labels=data.test_labels),
        options=fxedge.CompileOptions(recipe=recipe),
        model_name="digits",
        force=True,
    )
    checked = report.results[TARGET].checked
    assert checked.accuracy is not None
    print(f"int8 accuracy {checked.accuracy.format()}; {checked.end_to_end.worst_lsb} LSB from the simulation")


def serve(bundle: Path, images: np.ndarray) -> np.ndarray:
    """The class of each uint8 image [n, height, width, channels]: all that a server needs to do."""
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    steps = manifest["preprocess"]
    x = images.astype(np.float32) * np.float32(steps["scale"])
    x = (x - np.float32(steps["mean"])) / np.float32(steps["std"])
    session = onnxruntime.InferenceSession(bundle / manifest["targets"][TARGET]["artifact"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: x.transpose(0, 3, 1, 2)})
    return logits.argmax(1)


if __name__ == "__main__":
    main()
