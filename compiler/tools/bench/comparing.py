"""`fxedge bench --compare OLD.json NEW.json`: what became slower or faster between two recorded runs.

The interval knows the noise within the runs alone. What changed between them (a warmer machine, another neighbour)
moves all times by some per cent, so that a difference counts only beyond a margin as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ...ir.errors import InputError
from ...pipeline.machine import SAME_MACHINE
from ..tables import make_table, plural, print_table
from .figures import Ratio, unpaired_ratio
from .record import BenchRecord, ResultEntry, read_bench

SLOWER, FASTER, SAME = "slower", "faster", "same"

_Key = tuple[str, str, str, int, int, int]


@dataclass(frozen=True, slots=True)
class Change:
    """One artifact in both runs; `ratio` is that of the medians, new over old."""

    old: ResultEntry
    new: ResultEntry
    ratio: Ratio
    verdict: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """`changes` in the order of the new record; `gone` and `added` are in one record alone; `notes` say what else
    differs between the runs."""

    changes: tuple[Change, ...]
    gone: tuple[str, ...]
    added: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def slower(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.verdict == SLOWER)


def compare_files(old: Path, new: Path, *, margin: float, force: bool) -> Comparison:
    """Read two records and compare them, as `compare`."""
    return compare(read_bench(old), read_bench(new), margin=margin, force=force)


def compare(old: BenchRecord, new: BenchRecord, *, margin: float = 0.05, force: bool = False) -> Comparison:
    """What of `old` is slower or faster in `new` by more than `margin` (a share) and with the whole interval.

    Raises:
        InputError: they come from different machines and `force` is not given, or have no artifact in common.
    """
    differences = list(_machine_differences(old, new))
    if differences and not force:
        raise InputError(
            f"The two runs are of different machines ({'; '.join(differences)}), so their times do not say what "
            "changed; measure both on one machine, or give --force."
        )
    before, after = _by_key(old), _by_key(new)
    common = [key for key in after if key in before]
    if not common:
        raise InputError("The two runs share no artifact: no model, target, threads and batch are in both.")
    changes = tuple(_change(before[key], after[key], margin) for key in common)
    return Comparison(
        changes,
        tuple(_name(key) for key in before if key not in after),
        tuple(_name(key) for key in after if key not in before),
        (*differences, *_notes(old, new, changes)),
    )


def _by_key(record: BenchRecord) -> dict[_Key, ResultEntry]:
    """By what must be equal for two times to be comparable; bundles of one model are told apart by their order."""
    found: dict[_Key, ResultEntry] = {}
    for entry in record.results:
        again = 0
        while (key := (entry.model, entry.target, entry.contestant, entry.threads, entry.batch, again)) in found:
            again += 1
        found[key] = entry
    return found


def _name(key: _Key) -> str:
    model, target, contestant, threads, batch, _ = key
    return f"{model} on {target}: {contestant}, {plural(threads, 'thread')}, batch {batch}"


def _change(old: ResultEntry, new: ResultEntry, margin: float) -> Change:
    ratio = unpaired_ratio(new.seconds, old.seconds)
    return Change(old, new, ratio, judge(ratio, margin))


def judge(ratio: Ratio, margin: float) -> str:
    """Slower or faster where the whole interval lies beyond the margin; without an interval, the same."""
    if ratio.low is not None and ratio.low > 1 + margin:
        return SLOWER
    if ratio.high is not None and ratio.high < 1 / (1 + margin):
        return FASTER
    return SAME


def _machine_differences(old: BenchRecord, new: BenchRecord) -> Iterator[str]:
    for field, name in SAME_MACHINE.items():
        before, after = getattr(old.machine, field), getattr(new.machine, field)
        if before != after:
            yield f"{name} {before}, now {after}"


def _notes(old: BenchRecord, new: BenchRecord, changes: Sequence[Change]) -> Iterator[str]:
    for record, which in ((old, "old"), (new, "new")):
        machine = record.machine
        if machine.load is not None and machine.load > machine.cores:
            yield f"the {which} run met a load of {machine.load} on {plural(machine.cores, 'core')}"
    own = [_other_versions({"fxedge": old.fxedge} | old.libraries, {"fxedge": new.fxedge} | new.libraries)]
    own += [_other_versions(change.old.versions, change.new.versions) for change in changes]
    yield from sorted(set().union(*own))


def _other_versions(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    both = before.keys() & after.keys()
    return {f"{name} {before[name]}, now {after[name]}" for name in both if before[name] != after[name]}


def print_comparison(console: Console, found: Comparison) -> None:
    table = make_table("model", "target", "threads", "batch", "artifact", "old ms", "new ms", "new / old", "")
    for change in found.changes:
        new = change.new
        cells = (new.model, new.target, str(new.threads), str(new.batch), new.contestant)
        times = (f"{1e3 * change.old.median:.3f}", f"{1e3 * new.median:.3f}", change.ratio.format())
        table.add_row(*cells, *times, change.verdict)
    print_table(console, table)
    for text in _asides(found):
        console.print(text, soft_wrap=True)


def _asides(found: Comparison) -> Iterator[str]:
    yield from (f"only in the old run: {name}" for name in found.gone)
    yield from (f"only in the new run: {name}" for name in found.added)
    yield from (f"note: {text}" for text in found.notes)


def comparison_json(found: Comparison) -> dict[str, Any]:
    return {
        "changes": [_change_json(change) for change in found.changes],
        "gone": list(found.gone),
        "added": list(found.added),
        "notes": list(found.notes),
    }


def _change_json(change: Change) -> dict[str, Any]:
    fields: Sequence[str] = ("model", "target", "contestant", "threads", "batch")
    told = {field: getattr(change.new, field) for field in fields}
    seconds = {"old_median": change.old.median, "new_median": change.new.median}
    ratio = {"ratio": change.ratio.value, "low": change.ratio.low, "high": change.ratio.high}
    return told | seconds | ratio | {"verdict": change.verdict}
