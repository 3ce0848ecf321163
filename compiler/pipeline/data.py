"""Samples for calibration and evaluation, streamed in batches, preprocessed and checked on the way.

`open_dataset` takes a folder of images, an `.npy`, `.npz` or `.safetensors` file, or `file.py:loader`;
`from_arrays` takes what a Python program holds. The first axis of every array is the sample.

What a batch from user code may be and how arrays are matched to the model's inputs: see `raw_batches`.
`file.py:loader` names a function, which may return one batch, an iterable of batches, or be a generator; it is
called again for every pass over the data. A list given to `from_arrays` is such an iterable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..ir.errors import InputError
from .array_files import ARRAY_SUFFIXES, array_names, read_array
from .image_folder import ImageFolder, open_image_folder
from .preprocess import Preprocess
from .raw_batches import (
    BATCH_FORMS,
    RawBatch,
    check_finite,
    check_lengths,
    cut,
    describe_type,
    digest_batches,
    parse_batch,
    parse_labels,
    resolve_names,
)
from .selection import Keep, Selected, Source
from .sources import PythonObject, is_python_spec, load_python_object


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """`inputs` as the model takes them, [n, ...] each; `labels` int64 or float32 [n, ...], or None."""

    inputs: tuple[Tensor, ...]
    labels: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Batches of at most `batch_size` samples, as often as it is iterated.

    `preprocess` is the one given, with layout and dtype filled in where the source fixes them. `labels` and
    `count` (samples) are None where only a pass over the data would tell; `class_names` is set for a folder
    of named classes. Iterating raises InputError: NaN or inf, a damaged sample, or an error in user code.
    """

    name: str
    input_names: tuple[str, ...]
    preprocess: Preprocess
    batch_size: int
    source: Source

    @property
    def count(self) -> int | None:
        return self.source.count

    @property
    def labels(self) -> np.ndarray | None:
        return self.source.labels

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self.source.class_names

    def __len__(self) -> int:
        """Samples, not batches; TypeError where unknown (`count` is None)."""
        if self.count is None:
            raise TypeError(f"{self.name}: the number of samples is unknown until they are read")
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        start = 0
        for raw in self.source.batches(self.batch_size):
            for name, array in zip(self.input_names, raw.inputs, strict=True):
                check_finite(f"input {name!r} of {self.name}", array, start)
            inputs = (
                self.preprocess.apply(array, f"input {name!r} of {self.name}")
                for name, array in zip(self.input_names, raw.inputs, strict=True)
            )
            labels = None if raw.labels is None else torch.from_numpy(np.array(raw.labels))
            yield Batch(tuple(inputs), labels)
            start += len(raw.inputs[0])

    def fingerprint(self) -> str:
        """sha256 of the samples (raw, before preprocessing), their names, types, shapes and labels.

        Image folders: of the files. Arrays: whatever file they come from and however they are batched.
        Streaming; for a loader this is one more pass.
        """
        return self.source.fingerprint(self.input_names)

    def select(self, keep: Keep, name: str) -> Dataset:
        """The samples at the positions for which `keep` is true, in the same order, under another name."""
        if isinstance(self.source, _Images):
            return dataclasses.replace(self, name=name, source=_Images(self.source.folder.select(keep)))
        return dataclasses.replace(self, name=name, source=Selected(self.source, keep, name))


def open_dataset(
    spec: str | Path,
    preprocess: Preprocess,
    input_names: Sequence[str],
    batch_size: int,
    limit: int | None = None,
) -> Dataset:
    """The data that `spec` names on the command line; a loader's code is run.

    `limit` takes so many samples: the first ones, or, of a folder of images, evenly spaced ones, so that every
    class keeps its share.

    Raises:
        InputError: nothing usable there; says what is allowed.
    """
    _check_numbers(batch_size, limit)
    names = tuple(input_names)
    if is_python_spec(str(spec)):
        loader = load_python_object(str(spec))
        return Dataset(str(spec), names, preprocess, batch_size, _from_loader(loader, str(spec), names, limit))
    path = Path(spec)
    if path.is_dir():
        return _open_folder(path, preprocess, names, batch_size, limit)
    if path.suffix.lower() not in ARRAY_SUFFIXES or not path.is_file():
        raise InputError(_unusable(path))
    source = _from_file(path, names, limit)
    return Dataset(str(path), names, _with_dtype(preprocess, source), batch_size, source)


def from_arrays(
    data: object,
    preprocess: Preprocess | None = None,
    input_names: Sequence[str] = ("input",),
    batch_size: int = 32,
    limit: int | None = None,
    labels: object = None,
) -> Dataset:
    """Data in memory: an array or tensor, a tuple of them, a dict by name, or a list of batches.

    Also any iterable of batches that can be read again (a `DataLoader`), or a function that returns one.
    `labels` go with arrays; batches carry their own.

    Raises:
        InputError: another type, unequal lengths, no samples, or an iterator that can be read only once.
    """
    _check_numbers(batch_size, limit)
    names, name = tuple(input_names), "the given data"
    source = _from_memory(data, labels, names, name, limit)
    return Dataset(name, names, _with_dtype(preprocess or Preprocess(), source), batch_size, source)


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """Arrays of equal length, in memory or mapped; a batch is a slice."""

    inputs: tuple[np.ndarray, ...]
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None = None

    @property
    def count(self) -> int:
        return len(self.inputs[0])

    def batches(self, batch_size: int) -> Iterator[RawBatch]:
        for start in range(0, self.count, batch_size):
            yield cut(RawBatch(self.inputs, self.labels), start, start + batch_size)

    def fingerprint(self, names: Sequence[str]) -> str:
        return digest_batches(names, self.batches(256))


@dataclass(frozen=True, slots=True, eq=False)
class _Images:
    """The one input is an image folder, decoded batch by batch."""

    folder: ImageFolder

    @property
    def count(self) -> int:
        return len(self.folder)

    @property
    def labels(self) -> np.ndarray | None:
        return self.folder.labels

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self.folder.class_names

    def batches(self, batch_size: int) -> Iterator[RawBatch]:
        for start in range(0, self.count, batch_size):
            part = slice(start, start + batch_size)
            yield RawBatch((self.folder[part],), None if self.labels is None else self.labels[part])

    def fingerprint(self, names: Sequence[str]) -> str:
        return self.folder.fingerprint()


@dataclass(frozen=True, slots=True, eq=False)
class _Stream:
    """Batches that user code makes; `start` begins a pass."""

    start: Callable[[], Iterable[object]]
    names: tuple[str, ...]
    name: str
    limit: int | None
    count: int | None = None
    labels: None = None
    class_names: None = None

    def batches(self, batch_size: int) -> Iterator[RawBatch]:
        left = self.limit
        number = -1
        for number, item in enumerate(self.start()):
            raw = parse_batch(item, self.names, f"batch {number} of {self.name}")
            size = len(raw.inputs[0]) if left is None else min(left, len(raw.inputs[0]))
            for at in range(0, size, batch_size):
                yield cut(raw, at, min(at + batch_size, size))
            if left is not None:
                left -= size
                if left == 0:
                    return
        if number < 0:
            raise InputError(f"{self.name} gave no batches: it must give at least one in every pass")

    def fingerprint(self, names: Sequence[str]) -> str:
        return digest_batches(names, self.batches(256))


def _from_memory(data: object, labels: object, names: tuple[str, ...], name: str, limit: int | None) -> Source:
    if isinstance(data, np.ndarray | Tensor | tuple | Mapping):
        raw = parse_batch(data, names, name)
        given = raw.labels if labels is None else parse_labels(labels, name)
        return _columns(raw.inputs, given, names, name, limit)
    if labels is not None:
        raise InputError(f"{name}: labels are given beside batches; put them into each batch, as its last item")
    if isinstance(data, Iterator):
        raise InputError(f"{name} is an iterator, which can be read only once: give a list or a function")
    if isinstance(data, list):
        raws = [parse_batch(item, names, f"batch {number} of {name}") for number, item in enumerate(data)]
        count = sum(len(raw.inputs[0]) for raw in raws)
        return _Stream(lambda: data, names, name, limit, count if limit is None else min(count, limit))
    if isinstance(data, Iterable):
        return _Stream(lambda: data, names, name, limit)
    if callable(data):
        return _Stream(lambda: _as_batches(data(), name), names, name, limit)
    raise InputError(f"{name} is {describe_type(data)}; allowed: {BATCH_FORMS}, or a list of such batches")


def _from_loader(loader: PythonObject, spec: str, names: tuple[str, ...], limit: int | None) -> _Stream:
    return _Stream(lambda: loader.iterate(_as_batches(loader(), spec)), names, spec, limit)


def _as_batches(result: object, name: str) -> Iterable[object]:
    if isinstance(result, np.ndarray | Tensor | tuple | Mapping):
        return (result,)
    if isinstance(result, Iterable) and not isinstance(result, str | bytes):
        return result
    raise InputError(
        f"{name} returned a value {describe_type(result)}; allowed: {BATCH_FORMS}, or an iterable of such batches"
    )


def _open_folder(
    path: Path, preprocess: Preprocess, names: tuple[str, ...], batch_size: int, limit: int | None
) -> Dataset:
    if len(names) != 1:
        raise InputError(
            f"the folder {path} gives one input, but the model has {len(names)} ({', '.join(names)}): "
            "use an .npz or .safetensors file, or file.py:loader"
        )
    if preprocess.layout == "NCHW" or preprocess.dtype not in (None, "uint8"):
        raise InputError(
            f"the folder {path} gives uint8 images in layout NHWC, but the declared layout is "
            f"{preprocess.layout} and the dtype {preprocess.dtype}: declare NHWC and uint8, or neither"
        )
    resolved = preprocess.model_copy(update={"layout": "NHWC", "dtype": "uint8"})
    source = _Images(open_image_folder(path, resolved, limit))
    return Dataset(str(path), names, resolved, batch_size, source)


def _from_file(path: Path, names: tuple[str, ...], limit: int | None) -> _Columns:
    if path.suffix.lower() == ".npy":
        if len(names) != 1:
            raise InputError(
                f"{path} holds one array, but the model has {len(names)} inputs ({', '.join(names)}): "
                "use an .npz or .safetensors file with an array for each"
            )
        return _columns((read_array(path, ""),), None, names, str(path), limit)
    input_keys, label_key = resolve_names(array_names(path), names, str(path))
    inputs = tuple(read_array(path, key) for key in input_keys)
    labels = None if label_key is None else read_array(path, label_key)
    return _columns(inputs, labels, names, str(path), limit)


def _columns(
    inputs: tuple[np.ndarray, ...],
    labels: np.ndarray | None,
    names: tuple[str, ...],
    where: str,
    limit: int | None,
) -> _Columns:
    check_lengths(inputs, labels, names, where)
    count = len(inputs[0])
    if count == 0:
        raise InputError(f"{where} holds no samples: the first axis of {names[0]!r} has length 0")
    raw = cut(RawBatch(inputs, labels), 0, count if limit is None else limit)
    return _Columns(raw.inputs, None if raw.labels is None else parse_labels(raw.labels, where))


def _check_numbers(batch_size: int, limit: int | None) -> None:
    if batch_size < 1:
        raise InputError(f"the batch size is {batch_size}: it must be at least 1")
    if limit is not None and limit < 1:
        raise InputError(f"the limit of samples is {limit}: it must be at least 1")


def _with_dtype(preprocess: Preprocess, source: Source) -> Preprocess:
    """Where the data have one type, the declaration says it: the deployed user needs to know."""
    if preprocess.dtype is not None or not isinstance(source, _Columns):
        return preprocess
    found = {array.dtype.name for array in source.inputs}
    return preprocess.model_copy(update={"dtype": found.pop()}) if len(found) == 1 else preprocess


def _unusable(path: Path) -> str:
    forms = f"a folder of images, a {', '.join(ARRAY_SUFFIXES)} file, or file.py:loader"
    if not path.exists():
        return f"the data {path} do not exist: give {forms}"
    if path.suffix == ".py":
        return f"the data {path} name a Python file, but no function in it: write {path}:loader"
    return f"the data {path} are of an unknown kind ({path.suffix or 'no suffix'}): give {forms}"
