"""`fxedge predict`: what each target will make of a model, and whether int8 will be faster on this machine."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from ...backends import registry
from ..ir.errors import FxedgeError, InputError
from ..pipeline.kernel_costs import TargetTable, cache_folder, find_table
from ..pipeline.lower import prepare
from ..pipeline.machine import describe_machine
from ..pipeline.predict import MARGIN, Prediction, Runs, Speed, predict
from .bench.figures import Ratio, median, paired_ratio
from .compiling import choose_targets
from .config import CompileConfig
from .exits import DONE, PARTLY_DONE
from .inspecting import load_examples
from .progress import make_progress
from .tables import first_few, group_reasons, make_table, plural, print_table

_DEAREST = 4


@dataclass(frozen=True, slots=True)
class Predictions:
    """By target; `failures` are of targets that cannot take the model, `skipped` those that cannot run here, and
    `uncosted` those whose kernel costs on `threads` are not known."""

    model: str
    found: dict[str, Prediction]
    failures: dict[str, FxedgeError]
    skipped: dict[str, str]
    uncosted: tuple[str, ...]
    threads: int

    @property
    def status(self) -> int:
        return PARTLY_DONE if self.failures else DONE


@dataclass(frozen=True, slots=True)
class Measured:
    """Medians of seconds, and float over int8 by pairs of runs."""

    int8_seconds: float
    float_seconds: float
    ratio: Ratio
    pairs: int

    @classmethod
    def of(cls, runs: Runs) -> Measured:
        return cls(median(runs.int8), median(runs.float), paired_ratio(runs.float, runs.int8), len(runs.int8))

    @property
    def verdict(self) -> str:
        """Faster or slower only where the whole interval says so."""
        low, value, high = self.ratio.low or 0.0, self.ratio.value, self.ratio.high or math.inf
        if low > 1 and value >= 1 + MARGIN:
            return "faster"
        return "slower" if high < 1 and value <= 1 - MARGIN else "about the same"


def run_predict(config: CompileConfig, measure: bool = True) -> Predictions:
    """Predict for the targets of `config`; with `measure`, run what was made.

    Raises:
        FxedgeError: the model cannot be used; of a single target, that it cannot take the model.
    """
    targets, skipped = choose_targets(config.target)
    threads = config.threads or 1
    name, model, examples, _ = load_examples(config)
    options = config.options()
    progress = make_progress(quiet=config.quiet)
    with progress.track("capture and passes"):
        prepared = prepare(model, examples, options)
    found, failures, uncosted = {}, {}, list[str]()
    with progress.track("predict", len(targets)) as advance:
        for done, target in enumerate(targets):
            backend = registry.get(target)
            table, reason = _table(target, threads)
            if table is None and backend.spec.own_runtime:
                uncosted.append(target)
            try:
                found[target] = predict(prepared, backend, options, table, reason, measure)
            except FxedgeError as error:
                failures[target] = error
            advance(done + 1)
    if not found:
        raise next(iter(failures.values()))
    return Predictions(name, found, failures, skipped, tuple(uncosted), threads)


def _table(target: str, threads: int) -> tuple[TargetTable | None, str | None]:
    """The machine's costs of the target's kernels, or why there are none."""
    backend = registry.get(target)
    if not backend.spec.own_runtime:
        return None, "what runs it here only stands in for its runtime"
    versions = backend.versions()
    try:
        return find_table(cache_folder(), target, describe_machine(), versions, threads), None
    except InputError as error:
        return None, str(error)


def print_predictions(console: Console, predictions: Predictions) -> None:
    measured = {
        name: Measured.of(found.runs) for name, found in predictions.found.items() if found.runs is not None
    }
    columns = ("measured float → int8",) if measured else ()
    table = make_table(
        "target", "int8", "float", "conversions", "predicted float → int8", *columns, "int8 will be"
    )
    for name, found in predictions.found.items():
        cells = str(found.integers), str(len(found.floats)), str(found.conversions)
        speeds = [_predicted_cell(found.speed), *([_measured_cell(measured.get(name))] if measured else [])]
        table.add_row(name, *cells, *speeds, _verdict(found.speed, measured.get(name)) or "-")
    print_table(console, table)
    for name, found in predictions.found.items():
        console.print()
        _print_details(console, name, found, measured.get(name), known=name not in predictions.uncosted)
    if without := ",".join(name for name in predictions.uncosted if name in measured):
        command = f"fxedge bench --calibrate-machine --target {without} --threads {predictions.threads}"
        console.print(f"\nnote: which kernels gain and which lose is told after {command}", soft_wrap=True)
    for name, reason in predictions.skipped.items():
        console.print(f"skipped {name}: {reason}", soft_wrap=True)
    for name, error in predictions.failures.items():
        console.print(f"failed {name}: {error}", soft_wrap=True)


def _verdict(speed: Speed | None, measured: Measured | None) -> str | None:
    """What was measured is right where a prediction says something else."""
    if measured is not None:
        return measured.verdict
    return None if speed is None else speed.verdict


def _predicted_cell(speed: Speed | None) -> str:
    if speed is None:
        return "-"
    return f"{1e3 * speed.float_seconds:.2f} → {1e3 * speed.int8_seconds:.2f} ms ({speed.ratio:.2f}×)"


def _measured_cell(measured: Measured | None) -> str:
    if measured is None:
        return "-"
    times = f"{1e3 * measured.float_seconds:.2f} → {1e3 * measured.int8_seconds:.2f} ms"
    return f"{times}, {measured.ratio.format()}"


def _print_details(
    console: Console, name: str, found: Prediction, measured: Measured | None, *, known: bool
) -> None:
    reasons = group_reasons((skip.node, skip.reason) for skip in found.floats)
    console.print(f"{name} runs {plural(len(found.floats), 'op')} in float" + (":" if reasons else ""))
    for reason, nodes in reasons.items():
        console.print(f"  {len(nodes)} × {reason}: {first_few(nodes)}", soft_wrap=True)
    for note in found.notes:
        console.print(f"  {note}", soft_wrap=True)
    if found.speed is None and (known or measured is None):
        console.print(f"  no prediction of speed: {found.no_speed}", soft_wrap=True)
    elif found.speed is not None:
        dearest = ", ".join(
            f"{part.kind} {1e3 * part.int8_seconds:.2f} ms" for part in found.speed.parts[:_DEAREST]
        )
        console.print(f"  int8 spends most on {dearest}", soft_wrap=True)
        if found.speed.unknown:
            console.print(f"  not counted, for want of a figure: {', '.join(found.speed.unknown)}", soft_wrap=True)
    if _verdict(found.speed, measured) not in (None, "faster"):
        why = _why_slow(found.speed, measured)
        console.print(f"  warning: int8 will not be faster on {name}; {why}", soft_wrap=True)


def _why_slow(speed: Speed | None, measured: Measured | None) -> str:
    if speed is None:
        return "that was measured"
    if measured is not None and speed.verdict == "faster":
        return "that was measured, though its kernels by themselves gain"
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
        "measured": None if found.runs is None else _measured_json(Measured.of(found.runs)),
        "speed": None
        if speed is None
        else dataclasses.asdict(speed) | {"ratio": speed.ratio, "verdict": speed.verdict},
    }


def _measured_json(measured: Measured) -> dict[str, Any]:
    return {
        "int8_seconds": measured.int8_seconds,
        "float_seconds": measured.float_seconds,
        "pairs": measured.pairs,
        "ratio": measured.ratio.value,
        "low": measured.ratio.low,
        "high": measured.ratio.high,
        "verdict": measured.verdict,
    }
