"""`fxedge inspect`: a model's graph, what the float passes did, a target's plan and ranges; or a bundle.

Ranges are shown where data are given (`digits` brings its own) together with a target: each group of values that
share parameters, with the range that calibration found and the parameters that follow from it. A pass that
promises to preserve the function has a certificate: how far it moved an output on the example inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from torch import Tensor

from ...backends import registry
from ..ir.capture import Capturable
from ..ir.dump import dump
from ..ir.errors import InputError
from ..pipeline.calibration import collect
from ..pipeline.data import Dataset
from ..pipeline.entries import pass_entries
from ..pipeline.fitting import example_inputs, fixed_batch
from ..pipeline.float_budget import within_budget
from ..pipeline.lower import FloatModel, plan_targets, prepare
from ..pipeline.manifest import Manifest, PassEntry, TargetEntry
from ..quant.calibrate import CalibrationStats
from ..quant.isa import require_isa
from ..quant.plan import Group, Plan
from ..quant.qparams import QParams, choose_qparams
from .compiling import choose_targets
from .config import CompileConfig
from .explaining import certificate
from .inputs import EMBEDDED, LoadedModel, load_data, load_model
from .progress import make_progress
from .tables import first_few, group_reasons, make_table, plural, print_table, size_text

# Notes of a pass that the summary of a bundle shows.
_NOTES = 3


@dataclass(frozen=True, slots=True)
class Inspection:
    """A model after its float passes; plans by target, and statistics where there were data."""

    model: FloatModel
    plans: dict[str, Plan]
    stats: CalibrationStats | None


def inspect_model(config: CompileConfig) -> Inspection:
    """Capture the model of `config`, run its float passes, plan for its targets and calibrate where it has data.

    Raises:
        FxedgeError: the model or the data cannot be used.
    """
    options = config.options()
    targets = choose_targets(config.target)[0] if config.target else ()
    specs = [registry.get(name).spec for name in targets]
    require_isa(specs, options.isa)
    _, module, examples, data = load_examples(config)
    batches = None if data is None else lambda: (batch.inputs for batch in data)
    model = prepare(module, examples, options, batches=batches)
    plans = plan_targets(model, specs, options)
    if data is None or not plans:
        return Inspection(model, plans, None)
    progress = make_progress(quiet=config.quiet)
    stats = collect(model, plans, (batch.inputs for batch in data), options, data.count, progress)
    for spec in specs:
        spent = within_budget(model, spec, plans[spec.name], stats, options, progress)
        plans[spec.name], stats = spent.plan, spent.stats
    return Inspection(model, plans, stats)


def load_examples(config: CompileConfig) -> tuple[str, Capturable, Sequence[Tensor], Dataset | None]:
    """The model's name, the model, inputs to capture it on, and the data where there are some.

    Raises:
        InputError: it brings no inputs, and there are no data.
    """
    loaded = load_model(config.model, config.weights, quiet=config.quiet)
    has_data = config.calib is not None or config.model == EMBEDDED
    data = load_data(config, loaded)[0] if has_data else None
    if data is None:
        examples = _examples(loaded)
    else:
        examples = example_inputs(data, fixed_batch(loaded.model, config.options()))
    return loaded.name, loaded.model, examples, data


def _examples(loaded: LoadedModel) -> Sequence[Tensor]:
    if loaded.examples is None:
        raise InputError(
            f"{loaded.name} brings no example inputs, so it cannot be captured: give --calib with data (two "
            "samples are enough)"
        )
    return loaded.examples


def print_inspection(console: Console, found: Inspection) -> None:
    console.print(dump(found.model.gm), soft_wrap=True)
    console.print()
    for entry in pass_entries(found.model.passes):
        console.print(_pass_line(entry), soft_wrap=True)
        for note in entry.notes:
            console.print(f"  note {note}", soft_wrap=True)
        for skip in entry.skipped:
            console.print(f"  left alone {skip}", soft_wrap=True)
    for plan in found.plans.values():
        console.print()
        console.print(plan.format(), soft_wrap=True)
        if found.stats is not None:
            _print_ranges(console, plan, found.stats)


def _pass_line(entry: PassEntry) -> str:
    """`pass fold-batch-norm: 3 changes, outputs moved by 2.1e-07 of their magnitude (allowed 0.0001)`."""
    said = certificate(entry.max_error, entry.rolled_back)
    return f"pass {entry.name}: {plural(entry.changes, 'change')}{', ' if said else ''}{said}"


def _print_ranges(console: Console, plan: Plan, stats: CalibrationStats) -> None:
    console.print()
    console.print(f"ranges for {plan.target}, {stats.method} over {plural(stats.samples, 'sample')}")
    table = make_table("value", "low", "high", "scale", "zero point", "shared with")
    for group in plan.groups:
        low, high, qp = _range(group, stats)
        shared = first_few(list(group.members[1:]), 2)
        table.add_row(
            group.members[0], f"{low:.5g}", f"{high:.5g}", f"{qp.scale[0]:.6g}", str(qp.zero_point[0]), shared
        )
    print_table(console, table)


def _range(group: Group, stats: CalibrationStats) -> tuple[float, float, QParams]:
    if group.fixed is not None:
        scale, zero = group.fixed.scale[0], group.fixed.zero_point[0]
        return scale * (group.fixed.qmin - zero), scale * (group.fixed.qmax - zero), group.fixed
    low, high = stats.range_of(group)
    return low, high, choose_qparams(low, high, group.spec)


def inspection_json(found: Inspection) -> dict[str, Any]:
    return {
        "graph": dump(found.model.gm).splitlines(),
        "passes": [entry.model_dump() for entry in pass_entries(found.model.passes)],
        "plans": {name: _plan_json(plan, found.stats) for name, plan in found.plans.items()},
    }


def _plan_json(plan: Plan, stats: CalibrationStats | None) -> dict[str, Any]:
    groups = []
    for group in plan.groups:
        entry: dict[str, Any] = {"values": list(group.members)}
        if stats is not None:
            low, high, qp = _range(group, stats)
            entry |= {"low": low, "high": high, "scale": qp.scale[0], "zero_point": qp.zero_point[0]}
        groups.append(entry)
    return {
        "integer_ops": [
            {"node": op.node, "fused": list(op.fused), "inputs": list(op.inputs), "outputs": list(op.outputs)}
            for op in plan.ops.values()
        ],
        "float_ops": [{"node": skip.node, "reason": skip.reason} for skip in plan.floats],
        "groups": groups,
    }


def print_manifest(console: Console, manifest: Manifest) -> None:
    """A bundle in short; `manifest.json` has all of it."""
    facts = make_table("", "")
    facts.show_header = False
    facts.add_row("model", f"{manifest.model} (graph and weights {manifest.model_sha256[:12]})")
    for tensor in manifest.inputs:
        shape = ", ".join("any" if size is None else str(size) for size in tensor.shape)
        facts.add_row(f"input {tensor.name}", f"{tensor.dtype} [{shape}]")
    facts.add_row("preprocessing", _preprocess_text(manifest))
    facts.add_row(
        "calibration", f"{manifest.calibration.method}, {plural(manifest.calibration.samples, 'sample')}"
    )
    facts.add_row("compiled by", f"fxedge {manifest.fxedge}, recipe {manifest.recipe}")
    if manifest.float_accuracy is not None:
        facts.add_row("float accuracy", f"{manifest.float_accuracy.hits} of {manifest.float_accuracy.total}")
    print_table(console, facts)
    console.print()
    table = make_table("target", "artifact", "size", "int8", "float", "accuracy", "integer nodes", "runtime")
    for name, entry in manifest.targets.items():
        table.add_row(name, entry.artifact, size_text(manifest.files[entry.artifact].size), *_target_cells(entry))
    print_table(console, table)
    for name, entry in manifest.targets.items():
        pairs = (text.partition(": ")[::2] for text in entry.float_ops)
        for reason, nodes in group_reasons(pairs).items():
            console.print(f"{name} float: {len(nodes)} × {reason}: {first_few(nodes)}", soft_wrap=True)
    for passed in manifest.passes:
        _print_in_short(console, passed)
    for name, entry in manifest.targets.items():
        for passed in entry.passes:
            _print_in_short(console, passed, f"{name} ")


def _print_in_short(console: Console, entry: PassEntry, prefix: str = "") -> None:
    """What a pass did, and the first of its notes."""
    console.print(f"{prefix}{_pass_line(entry)}", soft_wrap=True)
    for note in entry.notes[:_NOTES]:
        console.print(f"  note {note}", soft_wrap=True)
    if (rest := len(entry.notes) - _NOTES) > 0:
        console.print(f"  and {plural(rest, 'note')} more in manifest.json", soft_wrap=True)


def _preprocess_text(manifest: Manifest) -> str:
    steps = manifest.preprocess.model_dump(exclude_defaults=True, mode="json")
    return ", ".join(f"{key} {value}" for key, value in steps.items()) or "none"


def _target_cells(entry: TargetEntry) -> tuple[str, ...]:
    score = "-" if entry.accuracy is None else f"{entry.accuracy.hits} of {entry.accuracy.total}"
    return (
        str(entry.integer_ops),
        str(len(entry.float_ops)),
        score,
        f"{entry.parity.nodes_exact}/{entry.parity.nodes} exact",
        ", ".join(f"{library} {version}" for library, version in entry.runtime.items()),
    )
