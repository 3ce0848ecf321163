"""The passes of a target in order: what each changed, left alone and why, and bought."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...pipeline.lower import CAPTURE
from ...pipeline.manifest import Manifest, PassEntry
from ..explaining import certificate
from ..tables import group_reasons
from .explained import ExplanationRead, LossRead, PassRead


@dataclass(frozen=True, slots=True)
class LoggedPass:
    """`sqnr` of the program if the passes ended there and `bought` (dB) since the one before, where explained."""

    name: str
    stage: str
    changes: int | None
    promise: str
    notes: tuple[str, ...]
    skipped: dict[str, list[str]]
    sqnr: float | None = None
    bought: float | None = None
    explained: bool = False
    agreement: str = ""


def log_passes(manifest: Manifest, target: str, explanation: ExplanationRead | None) -> tuple[LoggedPass, ...]:
    """The float passes, which targets share, then the target's own."""
    effects = () if explanation is None else explanation.passes
    known: dict[tuple[str, str], PassRead] = {(effect.stage, effect.name): effect for effect in effects}
    log: list[LoggedPass] = []
    before: float | None = None
    for stage, entry in _entries(manifest, target, known):
        effect = known.get((stage, entry.name))
        loss = None if effect is None else effect.loss
        log.append(_logged(entry, stage, effect is not None, loss, before))
        before = before if loss is None or loss.sqnr_db is None else loss.sqnr_db
    return tuple(log)


def _entries(
    manifest: Manifest, target: str, known: dict[tuple[str, str], PassRead]
) -> Iterator[tuple[str, PassEntry]]:
    if ("float", CAPTURE) in known:
        yield "float", PassEntry(name=CAPTURE, changes=0)
    yield from (("float", entry) for entry in manifest.passes if entry.name != CAPTURE)
    yield from (("quantized", entry) for entry in manifest.targets[target].passes)


def _logged(
    entry: PassEntry, stage: str, explained: bool, loss: LossRead | None, before: float | None
) -> LoggedPass:
    sqnr = None if loss is None else loss.sqnr_db
    changed = None if loss is None else loss.changed
    kept = "" if changed is None else f"{changed.total - changed.hits} of {changed.total}"
    return LoggedPass(
        name=entry.name,
        stage=stage,
        changes=None if entry.name == CAPTURE else entry.changes,
        promise=certificate(entry.max_error, entry.rolled_back),
        notes=entry.notes,
        skipped=group_skips(entry.skipped),
        sqnr=sqnr,
        bought=None if sqnr is None or before is None else sqnr - before,
        explained=explained,
        agreement=kept,
    )


def group_skips(lines: tuple[str, ...]) -> dict[str, list[str]]:
    """`node: reason` lines -> reason -> its nodes."""
    return group_reasons((node, reason) for node, _, reason in (line.partition(": ") for line in lines))
