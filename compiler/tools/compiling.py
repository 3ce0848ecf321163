"""`fxedge compile`: from a configuration to a bundle, with progress, and the exit status that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...backends import registry
from ..ir.errors import BackendUnavailableError, InputError
from ..ir.progress import Progress
from ..pipeline.driver import CompileReport, compile_model
from ..pipeline.manifest import Manifest
from .config import CompileConfig
from .exits import DONE, PARTLY_DONE, note
from .inputs import load_data, load_model
from .progress import make_progress
from .report.command import REPORT, add_report, why_no_report

ALL = "all"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a compilation gave, where it is, and the targets left out because their runtime is not here."""

    report: CompileReport
    out: Path
    skipped: dict[str, str]

    @property
    def status(self) -> int:
        return PARTLY_DONE if self.report.failures else DONE


def run_compile(config: CompileConfig) -> Outcome:
    """Carry out `config`; warns of nothing, raises what stops it.

    Raises:
        FxedgeError: nothing could be compiled.
    """
    options = config.options()
    targets, skipped = choose_targets(config.target)
    loaded = load_model(config.model, config.weights, quiet=config.quiet)
    calibration, evaluation = load_data(config, loaded)
    out = config.output or Path(f"{bundle_stem(config.model)}-bundle")
    progress, no_report = make_progress(quiet=config.quiet), why_no_report()
    report = compile_model(
        loaded.model,
        calibration,
        targets,
        out,
        evaluation=evaluation,
        options=options,
        model_name=loaded.name,
        force=config.force,
        progress=progress,
        finish=None if no_report else partial(_add_report, progress, config.quiet),
    )
    if no_report and not config.quiet:
        note(f"the bundle has no {REPORT}: {no_report}")
    return Outcome(report, out, skipped)


def _add_report(progress: Progress, quiet: bool, folder: Path, manifest: Manifest) -> None:
    """A report that cannot be drawn must not cost the bundle."""
    try:
        add_report(folder, manifest, progress)
    except Exception as error:
        (folder / REPORT).unlink(missing_ok=True)
        if not quiet:
            note(f"the bundle has no {REPORT}: it could not be drawn ({type(error).__name__}: {error})")


def choose_targets(wanted: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The targets to compile for, and those of `all` that cannot run here, with the reason.

    A target that was named is kept even where it cannot run: it is then a failure, not a skip.

    Raises:
        InputError: no such target, or none given. BackendUnavailableError: `all`, and none can run here.
    """
    if not wanted:
        raise InputError(f"no target is given; allowed: {', '.join(registry.names())}, all")
    for name in wanted:
        if name != ALL:
            registry.get(name)
    if ALL not in wanted:
        return tuple(dict.fromkeys(wanted)), {}
    reasons = {name: registry.get(name).missing() for name in registry.names()}
    skipped = {name: reason for name, reason in reasons.items() if reason is not None and name not in wanted}
    chosen = tuple(name for name in reasons if name not in skipped)
    if not chosen:
        lines = " ".join(f"[{name}] {reason}" for name, reason in skipped.items())
        raise BackendUnavailableError(f"No target can be used here. {lines}")
    return chosen, skipped


def bundle_stem(model: str) -> str:
    """`digits` of `digits`, `net` of `dir/net.pt2`, `make` of `net.py:make`."""
    return model.rpartition(":")[2] if ".py:" in model else Path(model).stem
