"""Small pieces that every table and report shares: the console, counts, sizes, groups of reasons."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

_PLAIN_WIDTH = 150


def make_console() -> Console:
    """Standard output: styled and as wide as the terminal, or plain and of a fixed width where there is none.

    rich itself leaves colours out where NO_COLOR is set.
    """
    if sys.stdout.isatty():
        return Console(highlight=False, markup=False)
    return Console(highlight=False, markup=False, width=_PLAIN_WIDTH, force_terminal=False, color_system=None)


def make_table(*columns: str) -> Table:
    """A table without rules, its heading underlined; add a row for each line."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def print_table(console: Console, table: Table) -> None:
    """The table without the blanks with which rich fills its lines."""
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_json(value: Mapping[str, Any]) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def size_text(count: int) -> str:
    """Bytes in the unit that leaves one to three digits before the point (powers of 1000)."""
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:.2f} MB"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def group_reasons(skips: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """(node, reason) pairs -> reason -> its nodes, in order of first appearance."""
    groups: dict[str, list[str]] = {}
    for node, reason in skips:
        groups.setdefault(reason, []).append(node)
    return groups


def first_few(names: list[str], shown: int = 4) -> str:
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
