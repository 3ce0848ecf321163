"""Somebody else's model in the same run: which runtime reads it, and its inputs made from the bundle's.

What is done to the inputs is done before anything is timed: an axis order or an integer type that a user of that
model would have to produce anyway is not charged to it here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ....backends import registry
from ....backends.base import Backend, InputFact
from ...ir.errors import BackendUnavailableError, InputError


def suffixes(backend: Backend) -> set[str]:
    """Of the files that a backend's runtime reads."""
    return {Path(name).suffix for name in (backend.artifact, *backend.spec.also)}


def reader_of(path: Path, preferred: str) -> str:
    """The target whose runtime reads `path`: `preferred` if it does, else the first installed one that does.

    Raises:
        InputError: no runtime reads such files, or `path` is none. BackendUnavailableError: none is installed.
    """
    if not path.is_file():
        raise InputError(f"--against {path} does not exist or is no file.")
    readers = list(_readers(path.suffix))
    if not readers:
        known = sorted({suffix for name in registry.names() for suffix in suffixes(registry.get(name))})
        raise InputError(f"No runtime reads {path}: --against takes files that end in {', '.join(known)}.")
    missing = {name: registry.get(name).missing() for name in readers}
    usable = [name for name in readers if missing[name] is None]
    if not usable:
        raise BackendUnavailableError(f"No runtime that reads {path} is installed: {next(iter(missing.values()))}")
    return preferred if preferred in usable else usable[0]


def _readers(suffix: str) -> Iterator[str]:
    for name in registry.names():
        backend = registry.get(name)
        if suffix in suffixes(backend) and backend.spec.own_runtime:
            yield name


def fit_inputs(
    path: Path, given: Mapping[str, np.ndarray], facts: Sequence[InputFact] | None
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """The bundle's inputs, by name, as the model at `path` takes them, and what was done to them.

    Inputs go by name where all names agree, else in order. The last axes may be reordered (channels first to
    last), numbers cast where nothing is lost, or quantized where the model gives its scale.

    Raises:
        InputError: the model takes other inputs.
    """
    if facts is None:
        return list(given.values()), ()
    if len(facts) != len(given):
        raise InputError(
            f"--against {path} takes {len(facts)} input(s), the bundle has {len(given)}; it is another model."
        )
    by_name = all(fact.name in given for fact in facts)
    arrays, done = [], []
    for fact, (name, array) in zip(facts, given.items(), strict=True):
        name, array = (fact.name, given[fact.name]) if by_name else (name, array)
        array, steps = _fit(path, fact, array)
        arrays.append(np.ascontiguousarray(array))
        done += [f"{name}: {step}" for step in steps]
    return arrays, tuple(done)


def _fit(path: Path, fact: InputFact, array: np.ndarray) -> tuple[np.ndarray, list[str]]:
    steps = []
    if not _shape_fits(array.shape, fact.shape):
        moved = np.moveaxis(array, 1, -1) if array.ndim > 2 else array
        if not _shape_fits(moved.shape, fact.shape):
            raise InputError(
                f"--against {path}: input {fact.name} takes {_text(fact.shape)}, the bundle's inputs are "
                f"{list(array.shape)}; give a model of the same input size, or another --batch."
            )
        array = moved
        steps.append("channels moved to the last axis")
    if array.dtype.name == fact.dtype:
        return array, steps
    array, step = _cast(path, fact, array)
    return array, [*steps, step]


def _shape_fits(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return len(shape) == len(wanted) and all(
        want is None or want == size for size, want in zip(shape, wanted, strict=True)
    )


def _cast(path: Path, fact: InputFact, array: np.ndarray) -> tuple[np.ndarray, str]:
    try:
        wanted = np.dtype(fact.dtype)
    except TypeError as error:
        raise InputError(
            f"--against {path}: input {fact.name} is {fact.dtype}, not an array of numbers."
        ) from error
    floats = np.issubdtype(array.dtype, np.floating)
    if floats and np.issubdtype(wanted, np.integer) and fact.scale is not None:
        limits = np.iinfo(wanted)
        integers = np.clip(np.rint(array / fact.scale) + fact.zero_point, limits.min, limits.max)
        return integers.astype(wanted), f"quantized to {fact.dtype}"
    same_kind = floats and np.issubdtype(wanted, np.floating)
    cast = array.astype(wanted) if same_kind or not floats else None
    if cast is None or not (same_kind or np.array_equal(cast, array)):
        raise InputError(
            f"--against {path}: input {fact.name} takes {fact.dtype}, the bundle's inputs are {array.dtype.name}, "
            "and the model does not say how the one stands for the other."
        )
    return cast, f"cast to {fact.dtype}"


def _text(shape: Sequence[int | None]) -> str:
    return f"[{', '.join('any' if size is None else str(size) for size in shape)}]"
