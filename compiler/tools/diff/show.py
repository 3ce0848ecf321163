"""A diff as a table for the terminal, as Markdown for a pull request, and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console

from ..tables import make_table, plural, print_table, size_text
from .compare import BundleDiff, LatencyChange, LayerChange, Moved, ShareChange, TargetDiff

# GitHub takes no comment of more than 65,536 characters.
_LONGEST = 60_000
_LAYERS, _MOVED = 10, 20
_HEAD = ("target", "accuracy", "as float", "worst layer", "latency", "size", "newly float")


def print_diff(console: Console, diff: BundleDiff, broken: Sequence[str]) -> None:
    console.print(f"{diff.old.folder} → {diff.new.folder}", soft_wrap=True)
    table = make_table(*_HEAD)
    for found in diff.targets:
        table.add_row(*_cells(found))
    print_table(console, table)
    for found in diff.targets:
        for layer in _fallen(found):
            console.print(f"{found.target}: {_layer_text(layer)}", soft_wrap=True)
        for line in _moves(found):
            console.print(f"{found.target}: {line}", soft_wrap=True)
    for line in _remarks(diff):
        console.print(f"note: {line}", soft_wrap=True)
    for text in broken:
        console.print(f"BROKEN  {text}", soft_wrap=True)


def markdown(diff: BundleDiff, broken: Sequence[str]) -> str:
    """Fits a pull-request comment; the layers that lost most are folded away."""
    verdict = f"❌ {plural(len(broken), 'limit')} broken" if broken else "✅ no limit is broken"
    lines = [f"### fxedge: {verdict}", "", *(f"* {_escape(text)}" for text in broken), *([""] if broken else [])]
    lines += [f"| {' | '.join(_HEAD)} |", f"|{'---|' * len(_HEAD)}"]
    lines += [f"| {' | '.join(map(_escape, _cells(found)))} |" for found in diff.targets]
    for found in diff.targets:
        details = [_layer_text(layer) for layer in _fallen(found)] + list(_moves(found))
        if details:
            lines += ["", f"<details><summary>{found.target}: layers</summary>", ""]
            lines += [f"* {_escape(text)}" for text in details] + ["", "</details>"]
    lines += ["", *(f"* {_escape(text)}" for text in _remarks(diff))]
    lines.append(f"* {_escape(str(diff.old.folder))} → {_escape(str(diff.new.folder))}")
    return _shortened("\n".join(lines))


def diff_json(diff: BundleDiff, broken: Sequence[str]) -> dict[str, Any]:
    """Plain data: points, dB, seconds, bytes."""
    return {
        "old": str(diff.old.folder),
        "new": str(diff.new.folder),
        "broken": list(broken),
        "float_accuracy": _share_json(diff.float_accuracy),
        "targets": {found.target: _target_json(found) for found in diff.targets},
        "lost": list(diff.lost),
        "added": list(diff.added),
        "notes": list(diff.notes),
    }


def _cells(found: TargetDiff) -> tuple[str, ...]:
    worst = min(found.layers, key=lambda layer: layer.change, default=None)
    old, new = found.size
    return (
        found.target,
        _share_text(found.accuracy),
        _share_text(found.agreement),
        "-" if worst is None else f"{worst.change:+.1f} dB",
        _latency_text(found.latency),
        f"{size_text(old)} → {size_text(new)} ({100 * (new - old) / max(old, 1):+.1f} %)",
        str(len(found.now_float)),
    )


def _latency_text(latency: LatencyChange | None) -> str:
    if latency is None:
        return "-"
    return f"{1e3 * latency.old:.2f} → {1e3 * latency.new:.2f} ms, {latency.ratio.format()}"


def _share_text(change: ShareChange | None) -> str:
    if change is None:
        return "-"
    low, high = change.interval
    shares = f"{100 * change.old.value:.1f} → {100 * change.new.value:.1f} %"
    return f"{shares}, {change.points:+.1f} [{low:+.1f}, {high:+.1f}]"


def _fallen(found: TargetDiff) -> list[LayerChange]:
    """The layers that lost most, half a decibel at least."""
    fallen = sorted((layer for layer in found.layers if layer.change <= -0.5), key=lambda layer: layer.change)
    return fallen[:_LAYERS]


def _layer_text(layer: LayerChange) -> str:
    return f"{_where(layer)} {layer.old:.1f} → {layer.new:.1f} dB ({layer.change:+.1f})"


def _where(found: LayerChange | Moved) -> str:
    return f"{found.module} ({found.node})" if found.module else found.node


def _moves(found: TargetDiff) -> Iterable[str]:
    for moved, text in ((found.now_float, "now in float"), (found.now_int8, "now on integers, was in float")):
        yield from (f"{_where(one)} {text}: {one.reason}" for one in moved[:_MOVED])
        if len(moved) > _MOVED:
            yield f"and {len(moved) - _MOVED} more {text}"


def _remarks(diff: BundleDiff) -> Iterable[str]:
    if diff.added:
        yield f"new targets: {', '.join(diff.added)}"
    if (change := diff.float_accuracy) is not None and change.points:
        yield f"the float model itself changed: {_share_text(change)}"
    yield from diff.notes


def _escape(text: str) -> str:
    """Names come from bundles: none may end a cell or become markup."""
    for character in "\\|<>`*_[]":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.replace("@", "@\u200b").split())  # nobody is to be notified


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    kept = text[:_LONGEST].rpartition("\n")[0]
    end = "\n</details>\n" if kept.count("<details>") > kept.count("</details>") else ""
    return f"{kept}\n{end}\n* the rest is left out; `--json` has all of it"


def _share_json(change: ShareChange | None) -> dict[str, Any] | None:
    if change is None:
        return None
    low, high = change.interval
    shares = {"old": dataclasses.asdict(change.old), "new": dataclasses.asdict(change.new)}
    return shares | {"points": change.points, "low": low, "high": high}


def _target_json(found: TargetDiff) -> dict[str, Any]:
    return {
        "accuracy": _share_json(found.accuracy),
        "agreement": _share_json(found.agreement),
        "size": list(found.size),
        "nodes_worst_lsb": list(found.worst_lsb),
        "layers": [dataclasses.asdict(layer) | {"change": layer.change} for layer in found.layers],
        "now_float": [dataclasses.asdict(moved) for moved in found.now_float],
        "now_int8": [dataclasses.asdict(moved) for moved in found.now_int8],
        "latency": None if found.latency is None else dataclasses.asdict(found.latency),
    }
