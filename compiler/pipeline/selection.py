"""Some of the samples of a source, picked by position as they stream by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..ir.errors import InputError
from .raw_batches import RawBatch, cut, digest_batches

Keep = Callable[[int], bool]


class Source(Protocol):
    """Raw samples that can be read again and again; `count` and `labels` are None where only a pass would tell."""

    @property
    def count(self) -> int | None: ...
    @property
    def labels(self) -> np.ndarray | None: ...
    @property
    def class_names(self) -> tuple[str, ...] | None: ...
    def batches(self, batch_size: int) -> Iterator[RawBatch]: ...
    def fingerprint(self, names: Sequence[str]) -> str: ...


@dataclass(frozen=True, slots=True, eq=False)
class Selected:
    """The samples of `source` at the positions for which `keep` is true; errors call them `name`."""

    source: Source
    keep: Keep
    name: str

    @property
    def count(self) -> int | None:
        return None if self.source.count is None else sum(map(self.keep, range(self.source.count)))

    @property
    def labels(self) -> np.ndarray | None:
        labels = self.source.labels
        return None if labels is None else labels[[at for at in range(len(labels)) if self.keep(at)]]

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self.source.class_names

    def batches(self, batch_size: int) -> Iterator[RawBatch]:
        """Batches of `batch_size`; the last one, and one before samples of another size, maybe smaller. Raises
        InputError if nothing is kept."""
        position, held, empty = 0, None, True
        for raw in self.source.batches(batch_size):
            size = len(raw.inputs[0])
            rows = [row for row in range(size) if self.keep(position + row)]
            position += size
            if rows:
                taken, empty = _take(raw, rows), False
                if held is not None and not _is_alike(held, taken):
                    yield held
                    held = None
                held = _join(held, taken)
            while held is not None and len(held.inputs[0]) >= batch_size:
                yield cut(held, 0, batch_size)
                held = _rest(held, batch_size)
        if held is not None:
            yield held
        if empty:
            raise InputError(f"{self.name} is empty: the data have {position} sample(s); give more")

    def fingerprint(self, names: Sequence[str]) -> str:
        return digest_batches(names, self.batches(256))


def _take(raw: RawBatch, rows: list[int]) -> RawBatch:
    labels = None if raw.labels is None else raw.labels[rows]
    return RawBatch(tuple(array[rows] for array in raw.inputs), labels)


def _is_alike(first: RawBatch, second: RawBatch) -> bool:
    """Samples of the same size: sentences of another length cannot share a batch."""
    pairs = zip(first.inputs, second.inputs, strict=True)
    return all(left.shape[1:] == right.shape[1:] for left, right in pairs)


def _join(first: RawBatch | None, second: RawBatch) -> RawBatch:
    if first is None:
        return second
    inputs = tuple(np.concatenate(pair) for pair in zip(first.inputs, second.inputs, strict=True))
    if first.labels is None or second.labels is None:
        return RawBatch(inputs, None)
    return RawBatch(inputs, np.concatenate((first.labels, second.labels)))


def _rest(raw: RawBatch, start: int) -> RawBatch | None:
    size = len(raw.inputs[0])
    return cut(raw, start, size) if size > start else None
