"""Progress bars on stderr, for people: only on a terminal, never with --quiet."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from ..ir.progress import Advance, Progress, Silent


@dataclass(frozen=True, slots=True)
class BarProgress:
    """One bar for each task while it runs; a spinner where the number of units is unknown."""

    console: Console

    @contextlib.contextmanager
    def track(self, label: str, total: int | None = None) -> Iterator[Advance]:
        counting = (BarColumn(), MofNCompleteColumn()) if total is not None else ()
        columns = (SpinnerColumn(), TextColumn("{task.description}"), *counting, TimeElapsedColumn())
        with Bars(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(label, total=total)
            yield lambda done: bars.update(task, completed=done)


@dataclass(frozen=True, slots=True)
class LineProgress:
    """A line when a task starts: for terminals that cannot move the cursor (TERM=dumb), where bars stay empty."""

    console: Console

    @contextlib.contextmanager
    def track(self, label: str, total: int | None = None) -> Iterator[Advance]:
        counted = "" if total is None else f" ({total})"
        self.console.print(f"{label}{counted} ...", markup=False, highlight=False)
        yield lambda done: None


def make_progress(*, quiet: bool) -> Progress:
    """Bars if stderr is a terminal and `quiet` is not asked for (lines on a dumb one), else nothing."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        return Silent()
    return LineProgress(console) if console.is_dumb_terminal else BarProgress(console)
