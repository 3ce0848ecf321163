"""The table of reference models: a name, how to make the model, and inputs that it takes."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


class UnknownModelError(ValueError):
    """No model of that name; the message names the close ones."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One reference model.

    `factory()` gives a new module in eval mode with the same weights every time and leaves torch's random
    state as it was. `example_inputs()` gives its positional inputs with batch 2 on axis 0; the batch may be
    any size. `classes` is the number of classes of a classifier's logits. A `full_size` model takes seconds
    to build and run where the others take milliseconds.
    """

    name: str
    factory: Callable[[], nn.Module]
    example_inputs: Callable[[], tuple[Tensor, ...]]
    description: str
    classes: int | None = None
    full_size: bool = False


def register(entry: ModelEntry) -> ModelEntry:
    """Add a model; raises ValueError where the name is taken."""
    if entry.name in _ENTRIES:
        raise ValueError(f"model {entry.name!r} is registered twice")
    _ENTRIES[entry.name] = entry
    return entry


def get(name: str) -> ModelEntry:
    """The model of that name; raises UnknownModelError."""
    if name not in _ENTRIES:
        close = difflib.get_close_matches(name, names())
        what = f"close: {', '.join(close)}" if close else f"known: {', '.join(names())}"
        raise UnknownModelError(f"no reference model is called {name!r}; {what}")
    return _ENTRIES[name]


def names(*, full_size: bool = True) -> tuple[str, ...]:
    """All names in order of registration, or with `full_size=False` those of the small models only."""
    return tuple(name for name, entry in _ENTRIES.items() if full_size or not entry.full_size)


_ENTRIES: dict[str, ModelEntry] = {}
