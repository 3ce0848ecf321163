"""`fxedge sensitivity`: which layers lose most when they alone are quantized, as a table or JSON.

Samples are spread evenly over the calibration data, on all of which the ranges are found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from ... import __version__
from ...backends import registry
from ..ir.errors import InputError
from ..pipeline.calibration import collect
from ..pipeline.driver import example_inputs
from ..pipeline.entries import share_entry
from ..pipeline.fitting import fixed_batch, in_batches_of
from ..pipeline.holdout import few_samples
from ..pipeline.loss import Loss, finite_or_none
from ..pipeline.lower import plan_targets, prepare
from ..pipeline.sensitivity import LayerLoss, Sensitivity, measure_sensitivity
from ..quant.isa import require_isa
from ..quant.walk import samples_within
from .compiling import ALL, choose_targets
from .config import CompileConfig
from .flags import comma_list
from .inputs import load_data, load_model
from .progress import make_progress
from .tables import make_table, plural, print_table

SCHEMA_VERSION = 1

# Bytes of activations that one batch may take.
_BUDGET = 2**28


@dataclass(frozen=True, slots=True)
class Sensed:
    """What was measured, and of which model."""

    model: str
    sensitivity: Sensitivity


def run_sensitivity(config: CompileConfig, bits: str, samples: int) -> Sensed:
    """Calibrate the model of `config` on all its data, measure its layers on `samples` of them.

    Raises:
        FxedgeError: the model, the data or `bits` (a comma list) cannot be used; several targets.
    """
    widths, options, progress = _widths(bits), config.options(), make_progress(quiet=config.quiet)
    spec = registry.get(_one_target(config.target)).spec
    require_isa([spec], options.isa)
    loaded = load_model(config.model, config.weights, quiet=config.quiet)
    fixed = fixed_batch(loaded.model, options)
    data = in_batches_of(load_data(config, loaded)[0], fixed)

    with progress.track("capture and passes"):
        examples = example_inputs(data, fixed)
        model = prepare(loaded.model, examples, options, data.name, lambda: (batch.inputs for batch in data))
    plans = plan_targets(model, [spec], options)
    stats = collect(model, plans, (batch.inputs for batch in data), options, data.count, progress)
    few = few_samples(data, samples)
    size = fixed or min(config.batch_size, samples_within(model.gm, _BUDGET))
    batches = (batch.inputs for batch in in_batches_of(few, size))
    found = measure_sensitivity(
        model, spec, stats, batches, options, bits=widths, samples=few.count, progress=progress
    )
    return Sensed(loaded.name, found)


def _widths(bits: str) -> tuple[int, ...]:
    parts = comma_list(bits) or ()
    if not parts or not all(part.isdecimal() for part in parts):
        raise InputError(f"--bits is {bits!r}: give numbers from 2 to 8, as in 8,6,4")
    return tuple(map(int, parts))


def _one_target(wanted: tuple[str, ...]) -> str:
    """The target that was named, or the first that can run here."""
    if ALL in wanted:
        return choose_targets((ALL,))[0][0]
    if len(wanted) != 1:
        raise InputError(f"fxedge sensitivity measures one target at a time, not {', '.join(wanted) or 'none'}")
    return wanted[0]


def print_sensitivity(console: Console, sensed: Sensed) -> None:
    """One row for each layer, the most sensitive first: SQNR and changed top-1 for each width."""
    found = sensed.sensitivity
    table = make_table("layer", "module", "weights", *(f"{bits} bits" for bits in found.bits))
    for layer in found.layers:
        cells = (_cell(layer.losses[bits]) for bits in found.bits)
        table.add_row(layer.node, layer.module, str(layer.weights or "-"), *cells)
    print_table(console, table)
    console.print(
        f"\n{sensed.model} on {found.target}, {plural(found.samples, 'sample')}: the outputs' SQNR, and the share "
        "of top-1 that changes, with each layer alone on integers and the rest float; most sensitive at "
        f"{found.bits[0]} bits first",
        soft_wrap=True,
    )


def _cell(loss: Loss) -> str:
    """`25.7 dB, 3 % [1, 16]`; `exact` where nothing differs."""
    level = "exact" if loss.sqnr == math.inf else f"{loss.sqnr:.1f} dB"
    if loss.changed is None:
        return level
    low, high = loss.changed.interval
    return f"{level}, {100 * loss.changed.value:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def sensitivity_json(sensed: Sensed) -> dict[str, Any]:
    """The same as plain data: `sqnr_db` is null where nothing differs or the float output is zero, `changed` (how
    many top-1) null where the model is no classifier."""
    found = sensed.sensitivity
    return {
        "schema_version": SCHEMA_VERSION,
        "fxedge": __version__,
        "model": sensed.model,
        "target": found.target,
        "samples": found.samples,
        "bits": list(found.bits),
        "layers": [_layer_json(rank, layer) for rank, layer in enumerate(found.layers, 1)],
    }


def _layer_json(rank: int, layer: LayerLoss) -> dict[str, Any]:
    losses = {str(bits): _loss_json(loss) for bits, loss in layer.losses.items()}
    return {
        "rank": rank,
        "node": layer.node,
        "module": layer.module,
        "op": layer.op,
        "weights": layer.weights,
        "losses": losses,
    }


def _loss_json(loss: Loss) -> dict[str, Any]:
    changed = share_entry(loss.changed)
    return {"sqnr_db": finite_or_none(loss.sqnr), "changed": None if changed is None else changed.model_dump()}
