"""How long work reports itself; the command line draws bars, the library is silent."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

Advance = Callable[[int], None]


class Progress(Protocol):
    def track(self, label: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """A task named `label`; the function given takes the number of units done so far."""
        ...


class Silent:
    """No output."""

    @contextlib.contextmanager
    def track(self, label: str, total: int | None = None) -> Iterator[Advance]:
        yield lambda done: None
