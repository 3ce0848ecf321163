"""One batch of raw data as numpy arrays: from what user code gives, or from the arrays of a file, by name.

Names. An array belongs to the model input of its name. A model with one input also takes the only array that
is not a label, or the one called "x", "images", "data" or "input". Labels are called "y", "labels", "label" or
"targets". Arrays that no rule names are left alone.

A batch from user code is an array or tensor, a tuple or list of the inputs in order (one item more: labels),
or a dict by name. The first axis of every array is the sample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from ..ir.errors import InputError
from .preprocess import DataType

INPUT_ALIASES = ("x", "images", "data", "input")
LABEL_NAMES = ("y", "labels", "label", "targets")
BATCH_FORMS = "a numpy array or torch tensor, a tuple of the inputs in order, a dict by input name"
_DTYPES = get_args(DataType)


@dataclass(frozen=True, slots=True, eq=False)
class RawBatch:
    """As the source holds them: `inputs` in the order of the model's, first axis samples."""

    inputs: tuple[np.ndarray, ...]
    labels: np.ndarray | None


def resolve_names(found: Sequence[str], names: tuple[str, ...], where: str) -> tuple[tuple[str, ...], str | None]:
    """Which of the arrays `found` are the inputs, in the model's order, and which one the labels (or None).

    Raises:
        InputError: an input is not found, or labels are found twice.
    """
    label_keys = [key for key in found if key in LABEL_NAMES and key not in names]
    if len(label_keys) > 1:
        raise InputError(f"{where} holds labels twice, as {' and '.join(label_keys)}: keep one")
    label_key = label_keys[0] if label_keys else None
    if all(name in found for name in names):
        return names, label_key
    others = [key for key in found if key != label_key]
    aliases = [key for key in others if key in INPUT_ALIASES]
    if len(names) == 1 and len(others) == 1:
        return (others[0],), label_key
    if len(names) == 1 and len(aliases) == 1:
        return (aliases[0],), label_key
    allowed = f"the model's input(s) {', '.join(names)}"
    if len(names) == 1:
        allowed += f", or one of {', '.join(INPUT_ALIASES)}"
    raise InputError(
        f"{where} holds the arrays {', '.join(found) or '(none)'}; allowed: {allowed}; "
        f"and for labels one of {', '.join(LABEL_NAMES)}"
    )


def parse_batch(value: object, names: tuple[str, ...], where: str) -> RawBatch:
    """A batch from user code, in any of the forms above; `where` is what errors call it. Arrays are not copied.

    Raises:
        InputError: another form or type, a wrong number or unknown names of arrays, unequal lengths.
    """
    items, label = _split(value, names, where)
    inputs = tuple(_array(item, f"{name!r} in {where}") for name, item in zip(names, items, strict=True))
    labels = None if label is None else parse_labels(label, where)
    check_lengths(inputs, labels, names, where)
    return RawBatch(inputs, labels)


def _split(value: object, names: tuple[str, ...], where: str) -> tuple[tuple[object, ...], object]:
    if isinstance(value, Mapping):
        keys = {str(key): item for key, item in value.items()}
        input_keys, label_key = resolve_names(tuple(keys), names, where)
        return tuple(keys[key] for key in input_keys), None if label_key is None else keys[label_key]
    if isinstance(value, tuple | list):
        if len(value) not in (len(names), len(names) + 1):
            raise InputError(
                f"{where} is a {type(value).__name__} of {len(value)} items, but the model has {len(names)} "
                f"input(s) ({', '.join(names)}): give one array for each, and labels after them or not"
            )
        return tuple(value[: len(names)]), value[len(names)] if len(value) > len(names) else None
    if len(names) != 1 and isinstance(value, np.ndarray | Tensor):
        raise InputError(
            f"{where} is one array, but the model has {len(names)} inputs ({', '.join(names)}): "
            "give a tuple or a dict"
        )
    return (value,), None


def _array(value: object, what: str) -> np.ndarray:
    if isinstance(value, Tensor):
        tensor = value.detach().cpu()
        value = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
    if not isinstance(value, np.ndarray):
        raise InputError(f"{what} is {describe_type(value)}; allowed: {BATCH_FORMS}")
    if value.dtype.name not in _DTYPES:
        raise InputError(f"{what} holds {value.dtype.name}; allowed: {', '.join(_DTYPES)}")
    return value


def parse_labels(value: object, where: str) -> np.ndarray:
    """Labels as an array, a tensor or a list of numbers -> int64 (classes) or float32 (scores); a copy."""
    array = _array(np.asarray(value) if isinstance(value, list) else value, f"labels in {where}")
    check_finite(f"labels of {where}", array, 0)
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int64)


def check_lengths(
    inputs: tuple[np.ndarray, ...], labels: np.ndarray | None, names: tuple[str, ...], where: str
) -> None:
    """Raises InputError unless every array has a first axis, all of the same length."""
    arrays = list(zip(names, inputs, strict=True)) + ([] if labels is None else [("labels", labels)])
    for name, array in arrays:
        if array.ndim == 0:
            raise InputError(f"{name!r} in {where} is a single number: the first axis must be the samples")
    lengths = [(name, len(array)) for name, array in arrays]
    if len({length for _, length in lengths}) > 1:
        described = ", ".join(f"{name} has {length}" for name, length in lengths)
        raise InputError(f"{where} has arrays of unequal length ({described}): all need one entry for each sample")


def check_finite(what: str, array: np.ndarray, start: int) -> None:
    """Raises InputError at the first NaN or inf (in float32); `start` is where the batch begins in the data."""
    if array.dtype.kind != "f":
        return
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(array.astype(np.float32, copy=False))
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        position = (start + index[0], *index[1:])
        raise InputError(
            f"{what} is {array[index]} at index {list(position)}, and {int(bad.sum())} value(s) of its batch are "
            "not finite in float32: all must be; take the samples out or repair them"
        )


def cut(raw: RawBatch, start: int, stop: int) -> RawBatch:
    """Samples [start, stop); nothing is copied."""
    labels = None if raw.labels is None else raw.labels[start:stop]
    return RawBatch(tuple(array[start:stop] for array in raw.inputs), labels)


def digest_batches(names: Sequence[str], batches: Iterable[RawBatch]) -> str:
    """sha256 over one sha256 for each column (its bytes, little-endian) with its name, type and shape."""
    hashes = [hashlib.sha256() for _ in (*names, "labels")]
    described: dict[str, str] = {}
    count = 0
    for raw in batches:
        columns = (*raw.inputs, raw.labels)
        for name, column, digest in zip((*names, "labels"), columns, hashes, strict=True):
            if column is not None:
                native = column.astype(column.dtype.newbyteorder("<"), copy=False)
                digest.update(native.tobytes())
                described[name] = f"{column.dtype.name}{list(column.shape[1:])}"
        count += len(raw.inputs[0])
    total = hashlib.sha256(str(count).encode())
    for name, digest in zip((*names, "labels"), hashes, strict=True):
        total.update(f"\n{name} {described.get(name)} {digest.hexdigest()}".encode())
    return total.hexdigest()


def describe_type(value: object) -> str:
    """How errors say what a value is."""
    return f"of type {type(value).__name__}"
