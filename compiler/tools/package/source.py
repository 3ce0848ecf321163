"""What a package is made of, taken from a bundle that is not trusted: every byte was checked before it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...ir.errors import BundleError, InputError
from ...pipeline.bundle import read_bundle, read_checked, read_golden
from ...pipeline.manifest import Manifest, TargetEntry
from .runtimes import Runtime

DTYPES = ("bool", "uint8", "int8", "int32", "int64", "float32")
_MOST_LABELS = 2**20


@dataclass(frozen=True, slots=True)
class ImageForm:
    """The images that a model takes; (H, W) is what they are cropped and resized to."""

    height: int
    width: int
    channels: int


@dataclass(frozen=True, slots=True)
class Source:
    """One artifact of a bundle and what belongs to it.

    `inputs` and `outputs` are the golden vectors, by name in the order of the model. `classes` is the length of
    the first output where that is [batch, classes]. `image` is what images become, or why none can be given.
    """

    manifest: Manifest
    runtime: Runtime
    model: bytes
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    labels: tuple[str, ...]
    classes: int | None
    image: ImageForm | str

    @property
    def entry(self) -> TargetEntry:
        return self.manifest.targets[self.runtime.target]


def open_source(
    folder: Path, kind: str, runtimes: Sequence[Runtime], target: str | None, labels: Path | None
) -> Source:
    """Read from the bundle in `folder` what a package of `kind` needs; `runtimes` it can carry, best first.

    Raises:
        BundleError: there is no bundle, or it is damaged.
        InputError: no target of the bundle fits, or the labels do not.
    """
    manifest = read_bundle(folder)
    runtime = choose_runtime(folder, manifest, kind, runtimes, target)
    entry = manifest.targets[runtime.target]
    inputs = _golden(folder, manifest, manifest.golden_inputs, [tensor.name for tensor in manifest.inputs])
    outputs = _golden(folder, manifest, entry.golden, [output.name for output in entry.outputs])
    for tensor in manifest.inputs:
        _check_shape(folder, tensor.name, inputs[tensor.name], tensor.dtype, tensor.shape)
    classes = _count_classes(outputs)
    return Source(
        manifest=manifest,
        runtime=runtime,
        model=read_checked(folder, manifest, entry.artifact),
        inputs=inputs,
        outputs=outputs,
        labels=() if labels is None else read_labels(labels, classes),
        classes=classes,
        image=_image_form(manifest, inputs),
    )


def choose_runtime(
    folder: Path, manifest: Manifest, kind: str, runtimes: Sequence[Runtime], target: str | None
) -> Runtime:
    """The runtime of `target`, else the first of `runtimes` for which the bundle has an artifact."""
    if target is not None and target not in manifest.targets:
        raise InputError(f"{folder} has no target {target!r}; it has {', '.join(manifest.targets)}.")
    here = [runtime for runtime in runtimes if runtime.target in manifest.targets]
    fitting = [runtime for runtime in here if target in (None, runtime.target)]
    if fitting:
        return fitting[0]
    wrong = f"no target that a package for {kind} can carry"
    if target is not None:
        wrong = f"{target}, which no package for {kind} can carry"
    carried = ", ".join(f"{runtime.target} ({runtime.title})" for runtime in runtimes)
    advice = f"Here --target {here[0].target} works." if here else f"Compile with --target {runtimes[0].target}."
    raise InputError(
        f"{folder} has {', '.join(manifest.targets) or 'no target'}: {wrong}. It can carry {carried}. {advice}"
    )


def read_labels(path: Path, classes: int | None) -> tuple[str, ...]:
    """One label a line, as many as there are classes.

    Raises:
        InputError: they are not, or the file cannot be read as UTF-8 text.
    """
    if classes is None:
        raise InputError(
            "--labels is for classifiers, but the first output of this model is not [batch, classes]."
        )
    if not path.is_file():
        raise InputError(f"The labels {path} do not exist; give a text file with one label a line.")
    if path.stat().st_size > _MOST_LABELS:
        raise InputError(f"The labels {path} are larger than {_MOST_LABELS} bytes; give one short label a line.")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().split("\n")]
    except UnicodeDecodeError as error:
        raise InputError(f"The labels {path} are not UTF-8 text: {error.reason} at byte {error.start}.") from error
    if len(lines) != classes:
        raise InputError(f"{path} has {len(lines)} labels, but the model has {classes} classes; give one a line.")
    for at, line in enumerate(lines):
        if not line.isprintable() or not line:
            raise InputError(f"Line {at + 1} of {path} is {line!r}; give a label of printable characters.")
    return tuple(lines)


def require_float32(source: Source, kind: str) -> None:
    """Loaders for phones take and give float32 alone."""
    for name, array in (*source.inputs.items(), *source.outputs.items()):
        if array.dtype != np.float32:
            raise InputError(
                f"{name} of the model is {array.dtype.name}; a package for {kind} carries models whose inputs and "
                "outputs are float32. One for python takes any."
            )


def _golden(folder: Path, manifest: Manifest, name: str, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    found = read_golden(folder, manifest, name, wanted)
    for tensor in wanted:
        if found[tensor].dtype.name not in DTYPES:
            raise InputError(
                f"{tensor} of {folder} holds {found[tensor].dtype.name}; packages carry {', '.join(DTYPES)}."
            )
    return found


def _check_shape(folder: Path, name: str, golden: np.ndarray, dtype: str, shape: tuple[int | None, ...]) -> None:
    fits = len(shape) == golden.ndim and all(a in (None, b) for a, b in zip(shape, golden.shape, strict=True))
    if not fits or golden.dtype.name != dtype or golden.size == 0:
        raise BundleError(
            f"The golden input {name} of {folder} is {golden.dtype.name} {list(golden.shape)}, which is not the "
            f"manifest's {dtype} {list(shape)}; the bundle is damaged."
        )


def _count_classes(outputs: Mapping[str, np.ndarray]) -> int | None:
    first = next(iter(outputs.values()), None)
    if first is None or first.ndim != 2 or first.shape[1] < 2:
        return None
    return int(first.shape[1])


def _image_form(manifest: Manifest, golden: Mapping[str, np.ndarray]) -> ImageForm | str:
    steps, first = manifest.preprocess, next(iter(golden.values()))
    if len(manifest.inputs) != 1:
        return f"it has {len(manifest.inputs)} inputs"
    if steps.layout == "none":
        return "the bundle declares no image layout (compile with --layout NHWC)"
    if first.dtype != np.float32 or first.ndim != 4 or first.shape[1] not in (1, 3):
        return f"its input is {first.dtype.name} {list(first.shape)}, not one or three float32 channels"
    if steps.dtype not in (None, "uint8"):
        return f"it was calibrated with {steps.dtype} data, and images hold uint8"
    height, width = steps.size or manifest.inputs[0].shape[2:4]
    if height is None or width is None:
        return "its height and width may vary (compile with --size HxW)"
    if (height, width) != first.shape[2:4]:
        return f"images of {height} x {width} are declared, but its golden inputs are {list(first.shape)}"
    return ImageForm(height, width, first.shape[1])
