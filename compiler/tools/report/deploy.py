"""How to run each artifact of a bundle: code to copy, that a test runs as it stands.

What is put into the code (names of inputs, paths) is quoted for its language, since a bundle may be anybody's.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ...pipeline.manifest import Manifest, TargetEntry
from ...pipeline.preprocess import Preprocess

_FOLDER = Path(__file__).parent / "template-files" / "deploy"

# Target -> its template, and the distributions that its code imports beside numpy and safetensors.
_TORCH = ("torch.py.txt", "torch")
TEMPLATES: Mapping[str, tuple[str, str]] = {
    "fbgemm": _TORCH,
    "x86": _TORCH,
    "onednn": _TORCH,
    "qnnpack": _TORCH,
    "onnx": ("onnx.py.txt", "onnxruntime"),
    "tensorrt": ("tensorrt.sh.txt", ""),
    "openvino": ("openvino.py.txt", "openvino"),
    "tflite": ("tflite.py.txt", "ai-edge-litert"),
    "executorch": ("executorch.py.txt", "executorch"),
}


@dataclass(frozen=True, slots=True)
class Snippet:
    """Code in `language`, to be run in the bundle's folder; `needs` are distributions with versions."""

    language: str
    code: str
    needs: tuple[str, ...]


def deploy_snippet(manifest: Manifest, target: str) -> Snippet | None:
    """The code that runs the artifact of `target` on one golden sample; None for a target that is not known."""
    if target not in TEMPLATES:
        return None
    template, distribution = TEMPLATES[target]
    entry = manifest.targets[target]
    code = (
        _environment()
        .get_template(template)
        .render(
            artifact=entry.artifact,
            folder=str(PurePosixPath(entry.artifact).parent),
            engine=entry.runtime.get("engine", ""),
            inputs=_inputs_code(manifest),
        )
    )
    language = PurePosixPath(template).stem.rpartition(".")[2]
    return Snippet(language, code, _needs(entry, distribution))


def _environment() -> Environment:
    """Of code, not of HTML: the page escapes what comes out."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        undefined=StrictUndefined,
        trim_blocks=True,
        autoescape=False,
    )
    environment.filters |= {"py": repr, "sh": shlex.quote}
    return environment


def _inputs_code(manifest: Manifest) -> str:
    """Reads one sample, or all of a batch of fixed size, of each input."""
    lines = ["from safetensors.numpy import load_file", ""]
    lines += ["# samples of the bundle, preprocessed; put your own in their place"]
    lines += [f"golden = load_file({manifest.golden_inputs!r})"]
    parts = []
    for tensor in manifest.inputs:
        one = "[:1]" if tensor.shape and tensor.shape[0] is None else ""
        parts.append(f"golden[{tensor.name!r}]{one}")
    return "\n".join([*lines, f"inputs = [{', '.join(parts)}]", ""])


def _needs(entry: TargetEntry, distribution: str) -> tuple[str, ...]:
    if not distribution:
        return ()
    version = entry.runtime.get(distribution)
    return (distribution if version is None else f"{distribution} {version}", "numpy", "safetensors")


def preprocess_code(steps: Preprocess) -> str | None:
    """A function that does to raw data what was done before the model saw it; None where nothing is."""
    if steps.is_identity:
        return None
    shape = "" if steps.layout == "none" else ".reshape(-1, 1, 1)"
    moved = ".transpose(0, 3, 1, 2)" if steps.layout == "NHWC" else ""
    lines = ["import numpy as np", "", "", "def preprocess(raw):"]
    lines += [f"    x = raw{moved}.astype(np.float32)"]
    if steps.scale != 1.0:
        lines += [f"    x = x * np.float32({steps.scale!r})"]
    if steps.mean:
        lines += [f"    x = x - np.array({list(steps.mean)!r}, np.float32){shape}"]
    if steps.std:
        lines += [f"    x = x / np.array({list(steps.std)!r}, np.float32){shape}"]
    return "\n".join([*lines, "    return np.ascontiguousarray(x)"])
