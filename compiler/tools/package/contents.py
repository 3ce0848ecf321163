"""What every package holds, and how it is written: the same input gives the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ...pipeline.bundle import MANIFEST, SUMS, manifest_text
from .source import ImageForm, Source

DEPLOY = "deploy.json"
TEMPLATES = Path(__file__).parent / "template-files"
Files = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Built:
    """The files of a package without SHA256SUMS, and what the user has to know of it."""

    files: Files
    notes: tuple[str, ...] = ()


_MARK = re.compile(r"@([a-z_]+)@")
_FIRST_DATE = (1980, 1, 1, 0, 0, 0)


def template(name: str, /, **values: str) -> bytes:
    """A template with `@key@` replaced; every key of it has to be given, and every value to be used."""
    text = (TEMPLATES / name).read_text(encoding="utf-8")
    found = set(_MARK.findall(text))
    if found != set(values):
        raise KeyError(f"{name} has the marks {sorted(found)}, not {sorted(values)}")
    return _MARK.sub(lambda mark: values[mark[1]], text).encode()


def one_line(text: str) -> str:
    """A name out of a manifest, fit for Markdown: printable, no markup, at most 80 characters."""
    kept = "".join(c for c in text if c.isprintable() and c not in "`<>[]*_|\\")
    return kept[:80].strip() or "model"


def identifier(text: str) -> str:
    """Lower-case letters and digits, a letter first: for packages and modules of other languages."""
    kept = re.sub(r"[^a-z0-9]", "", text.lower())[:40]
    return kept if kept[:1].isalpha() else f"model{kept}"


def model_name(source: Source) -> str:
    """The model's name without the path and the suffix of a file of code: `net.py:make` -> `net`."""
    stem = source.manifest.model.replace("\\", "/").rsplit("/", 1)[-1]
    return one_line(re.split(r"\.py\b|\.pt2\b", stem)[0])


def model_files(source: Source) -> Files:
    """What a program needs beside deploy.json: the model, and labels where there are any."""
    files = {source.runtime.file: source.model}
    if source.labels:
        files["labels.txt"] = "".join(f"{label}\n" for label in source.labels).encode()
    return files


def golden_files(source: Source) -> Files:
    """The golden vectors as bare little-endian numbers; deploy.json gives types and shapes."""
    sides = {"input": source.inputs, "output": source.outputs}
    return {
        f"golden/{side}_{at}.bin": _little_endian(array)
        for side, arrays in sides.items()
        for at, array in enumerate(arrays.values())
    }


def deploy_json(source: Source, kind: str, **more: Any) -> bytes:
    """All that a loader has to know, `more` for this kind of it, and the sha256 of every file that it reads."""
    manifest, entry, form = source.manifest, source.entry, source.image
    image: dict[str, Any] = {"refused": form} if isinstance(form, str) else _form(form)
    files = model_files(source) | golden_files(source)
    return to_json(
        {
            "format": 1,
            "kind": kind,
            "model": model_name(source),
            "target": source.runtime.target,
            "runtime": source.runtime.name,
            "model_file": source.runtime.file,
            "labels": "labels.txt" if source.labels else None,
            "classes": source.classes,
            "inputs": [tensor.model_dump(mode="json") for tensor in manifest.inputs],
            "outputs": [output.model_dump(mode="json") for output in entry.outputs],
            "tolerance_lsb": entry.tolerance_lsb,
            "tolerance_lsb_elsewhere": max(entry.tolerance_lsb, source.runtime.elsewhere_lsb),
            "tolerance_float": entry.tolerance_float,
            "preprocess": manifest.preprocess.model_dump(mode="json"),
            "image": image,
            "image_check": None if isinstance(form, str) else image_check(source, form),
            "golden": {
                "inputs": _described("input", source.inputs),
                "outputs": _described("output", source.outputs),
            },
            "files": {
                name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
                for name, content in sorted(files.items())
            },
        }
        | more
    )


def image_check(source: Source, form: ImageForm) -> dict[str, Any]:
    """What the compiler's own preprocessing makes of a pattern that every loader can draw: all bits must agree.

    The pattern is larger than the model's input by odd factors, so that cropping and resizing take part.
    """
    width, height = 2 * form.width + 5, form.height + form.height // 2 + 3
    y, x, c = np.ogrid[:height, :width, : form.channels]
    pixels = ((x * 7 + y * 13 + c * 29 + x * y // 8) % 256).astype(np.uint8)
    image = Image.fromarray(pixels if form.channels == 3 else pixels[:, :, 0])
    fitted = ImageOps.fit(image, (form.width, form.height), method=Image.Resampling.BILINEAR)
    raw = np.asarray(fitted).reshape(1, form.height, form.width, form.channels)
    steps = source.manifest.preprocess.model_copy(update={"layout": "NHWC", "dtype": "uint8", "size": None})
    digest = hashlib.sha256(_little_endian(steps.apply(raw).numpy())).hexdigest()
    return {"width": width, "height": height, "sha256": digest}


def licences(source: Source, *more: str) -> bytes:
    """LICENSES.md: who made what; `more` are paragraphs on what else a package carries."""
    paragraphs = "".join(f"\n{text}\n" for text in more)
    values = {"model_file": source.runtime.file, "runtime": source.runtime.licence, "more": paragraphs}
    return template("licenses/LICENSES.md", **values)


def manifest_file(source: Source) -> Files:
    """The bundle's manifest, word for word: where the model comes from, and what was measured."""
    return {MANIFEST: manifest_text(source.manifest).encode()}


def with_sums(files: Files) -> Files:
    """`files` in name order and SHA256SUMS, which `sha256sum -c` reads."""
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items())]
    return dict(sorted(files.items())) | {SUMS: "".join(lines).encode()}


def under(folder: str, files: Mapping[str, bytes]) -> Files:
    return {f"{folder}/{name}": content for name, content in files.items()}


def archive(files: Mapping[str, bytes]) -> bytes:
    """A zip whose bytes depend on `files` alone: sorted, one date; what is compressed already is stored."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, _FIRST_DATE)
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            entry.compress_type = zipfile.ZIP_STORED
            out.writestr(entry, content)
    return buffer.getvalue()


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def to_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _form(form: ImageForm) -> dict[str, int]:
    return {"height": form.height, "width": form.width, "channels": form.channels}


def _described(side: str, arrays: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    return [
        {"file": f"golden/{side}_{at}.bin", "dtype": array.dtype.name, "shape": list(array.shape)}
        for at, array in enumerate(arrays.values())
    ]


def _little_endian(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
