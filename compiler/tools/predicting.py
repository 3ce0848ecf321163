"""`fxedge predict`: what each target will make of a model, and whether int8 will be faster on this machine."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from ...backends import registry
from ..ir.errors import FxedgeError, InputError
from ..pipeline.kernel_costs import TargetTable, cache_folder, find_table
from ..pipeline.lower import prepare
from ..pipeline.machine import describe_machine
from ..pipeline.predict import Prediction, Speed, predict
from .compiling import choose_targets
from .config import CompileConfig
from .exits import DONE, PARTLY_DONE
from .inspecting import load_examples
from .progress import make_progress
from .tables import first_few, group_reasons, make_table, plural, print_table

_DEAREST = 4


@dataclass(frozen=True, slots=True)
class Predictions:
    """By target; `failures` are of targets that cannot take the model, `skipped` those that cannot run here."""

    model: str
    found: dict[str, Prediction]
    failures: dict[str, FxedgeError]
    skipped: dict[str, str]

    @property
    def status(self) -> int:
        return PARTLY_DONE if self.failures else DONE


def run_predict(config: CompileConfig) -> Predictions:
    """Predict for the targets of `config`.

    Raises:
        FxedgeError: the model cannot be used; of a single target, that it cannot take the model.
    """
    targets, skipped = choose_targets(config.target)
    name, model, examples, _ = load_examples(config)
    options = config.options()
    progress = make_progress(quiet=config.quiet)
    with progress.track("capture and passes"):
        prepared = prepare(model, examples, options)
    found, failures = {}, {}
    with progress.track("predict", len(targets)) as advance:
        for done, target in enumerate(targets):
            backend = registry.get(target)
            table, reason = _table(target, config.threads or 1)
            try:
                found[target] = predict(prepared, backend, options, table, reason)
            except FxedgeError as error:
                failures[target] = error
            advance(done + 1)
    if not found:
        raise next(iter(failures.values()))
    return Predictions(name, found, failures, skipped)


def _table(target: str, threads: int) -> tuple[TargetTable | None, str | None]:
    """The machine's costs of the target's kernels, or why there are none."""
    versions = registry.get(target).versions()
    try:
        return find_table(cache_folder(), target, describe_machine(), versions, threads), None
    except InputError as error:
        return None, str(error)


def print_predictions(console: Console, predictions: Predictions) -> None:
    table = make_table("target", "int8", "float", "conversions", "predicted float → int8", "int8 will be")
    for name, found in predictions.found.items():
        cells = str(found.integers), str(len(found.floats)), str(found.conversions)
        table.add_row(name, *cells, *_speed_cells(found.speed))
    print_table(console, table)
    for name, found in predictions.found.items():
        console.print()
        _print_details(console, name, found)
    for name, reason in predictions.skipped.items():
        console.print(f"skipped {name}: {reason}", soft_wrap=True)
    for name, error in predictions.failures.items():
        console.print(f"failed {name}: {error}", soft_wrap=True)


def _speed_cells(speed: Speed | None) -> tuple[str, str]:
    if speed is None:
        return "-", "-"
    return (
        f"{1e3 * speed.float_seconds:.2f} → {1e3 * speed.int8_seconds:.2f} ms ({speed.ratio:.2f}×)",
        speed.verdict,
    )


def _print_details(console: Console, name: str, found: Prediction) -> None:
    reasons = group_reasons((skip.node, skip.reason) for skip in found.floats)
    console.print(f"{name} runs {plural(len(found.floats), 'op')} in float" + (":" if reasons else ""))
    for reason, nodes in reasons.items():
        console.print(f"  {len(nodes)} × {reason}: {first_few(nodes)}", soft_wrap=True)
    for note in found.notes:
        console.print(f"  {note}", soft_wrap=True)
    if found.speed is None:
        console.print(f"  no speed: {found.no_speed}", soft_wrap=True)
        return
    dearest = ", ".join(f"{part.kind} {1e3 * part.int8_seconds:.2f} ms" for part in found.speed.parts[:_DEAREST])
    console.print(f"  int8 spends most on {dearest}", soft_wrap=True)
    if found.speed.unknown:
        console.print(f"  not counted, for want of a figure: {', '.join(found.speed.unknown)}", soft_wrap=True)
    if found.speed.verdict != "faster":
        console.print(f"  warning: int8 will not be faster on {name}; {_why_slow(found.speed)}", soft_wrap=True)


def _why_slow(speed: Speed) -> str:
    losses = [
        f"{part.kind} ({1e3 * (part.int8_seconds - part.float_seconds):+.2f} ms)"
        for part in speed.losses()[:_DEAREST]
    ]
    return f"it loses on {', '.join(losses)}" if losses else "no kernel gains enough"


def predictions_json(predictions: Predictions) -> dict[str, Any]:
    """Plain data, in seconds."""
    return {
        "model": predictions.model,
        "targets": {name: _prediction_json(found) for name, found in predictions.found.items()},
        "failures": {
            name: {"kind": type(error).__name__, "message": str(error)}
            for name, error in predictions.failures.items()
        },
        "skipped": predictions.skipped,
    }


def _prediction_json(found: Prediction) -> dict[str, Any]:
    speed = found.speed
    return {
        "integer_ops": found.integers,
        "float_ops": [{"node": skip.node, "reason": skip.reason} for skip in found.floats],
        "conversions": found.conversions,
        "notes": list(found.notes),
        "no_speed": found.no_speed,
        "speed": None
        if speed is None
        else dataclasses.asdict(speed) | {"ratio": speed.ratio, "verdict": speed.verdict},
    }
