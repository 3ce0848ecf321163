"""What `fxedge compile` says at the end: one table row for each target, then what needs words; or JSON.

"module to artifact" is capture, passes, calibration, lowering and emission of every target; "verification" is
everything measured afterwards.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Console
from rich.table import Table

from ... import __version__
from ..pipeline.accuracy import Share
from ..pipeline.check import Checked, Latency
from ..pipeline.driver import TargetResult
from ..pipeline.entries import max_drop_entry, saturation_entry, share_entry
from ..pipeline.manifest import ParityEntry
from ..pipeline.parity import EndToEnd
from ..quant.plan import Plan
from ..quant.saturation import SaturationProof
from .compiling import Outcome
from .explaining import print_explanation, relief_line
from .tables import first_few, group_reasons, make_table, plural, print_table, size_text

_VERIFICATION = "verify"


def print_summary(console: Console, outcome: Outcome) -> None:
    """The whole report of a compilation."""
    report = outcome.report
    print_table(console, _target_table(report.results))
    console.print()
    if report.reference is not None and report.reference.accuracy is not None:
        console.print(f"float accuracy      {_share(report.reference.accuracy)}")
    build, verification = _seconds(report.seconds)
    console.print(f"module to artifact  {build:.1f} s ({_stages(report.seconds)})")
    console.print(f"verification        {verification:.1f} s")
    console.print(f"bundle              {outcome.out}", soft_wrap=True)
    for line in report.manifest.notes if report.manifest is not None else ():
        console.print(f"note                {line}", soft_wrap=True)
    if slow := _not_faster(report.results):
        console.print(
            f"note                int8 is not faster than float here on {', '.join(slow)} (one sample at a time)",
            soft_wrap=True,
        )
    for name, result in report.results.items():
        _print_saturation(console, name, result.lowered.saturation)
        _print_floats(console, name, result.lowered.plan)
    for name, result in report.results.items():
        if result.max_drop is not None:
            console.print(relief_line(name, result.max_drop), soft_wrap=True)
    for found in report.explanations.values():
        console.print()
        print_explanation(console, found)
    for name, reason in outcome.skipped.items():
        console.print(f"skipped {name}: {reason}", soft_wrap=True)
    for name, error in report.failures.items():
        console.print(f"failed {name}: {error}", soft_wrap=True)


def _target_table(results: dict[str, TargetResult]) -> Table:
    table = make_table(
        "target", "accuracy", "as float", "integer nodes", "end to end", "size", "latency", "int8", "float"
    )
    for name, result in results.items():
        checked = result.checked
        table.add_row(
            name,
            _share(checked.accuracy),
            "-" if checked.agreement is None else f"{100 * checked.agreement.value:.1f} %",
            _nodes(checked),
            end_to_end_text(checked.end_to_end),
            _sizes(result),
            _latency(checked.latency),
            str(len(result.lowered.plan.ops)),
            str(len(result.lowered.plan.floats)),
        )
    return table


def _share(share: Share | None) -> str:
    return "-" if share is None else share.format()


def _nodes(checked: Checked) -> str:
    """Part (a) of parity."""
    worst = [node.worst for node in checked.nodes]
    return nodes_text(worst.count(0), len(worst), max(worst, default=0))


def nodes_text(exact: int, count: int, worst: int) -> str:
    """How many of the integer nodes are exact, and the worst of the rest."""
    text = f"{exact}/{count} exact"
    return text if worst == 0 else f"{text}, ≤ {worst} LSB"


def end_to_end_text(end: EndToEnd | ParityEntry) -> str:
    """Part (b) of parity: worst difference, share of differing integers, top-1 flips."""
    parts = []
    if end.total:
        parts.append(f"{end.worst_lsb} LSB")
        if end.differing:
            parts.append(f"{100 * end.differing / end.total:.2g} % differ")
    if end.total < 1 or end.worst_float:
        parts.append(f"{end.worst_float:.1g} of float")
    if end.flips or end.worst_lsb:
        parts.append(f"{plural(end.flips, 'flip')} of {end.samples}")
    return ", ".join(parts)


def _sizes(result: TargetResult) -> str:
    int8 = size_text(result.size)
    return int8 if result.float_size is None else f"{size_text(result.float_size)} → {int8}"


def _latency(latency: Latency | None) -> str:
    if latency is None:
        return "-"
    int8 = f"{1e3 * latency.int8:.2f} ms"
    if latency.float is None or latency.ratio is None:
        return int8
    return f"{1e3 * latency.float:.2f} → {int8} ({latency.ratio:.2f}×)"


def _not_faster(results: dict[str, TargetResult]) -> list[str]:
    """Targets whose int8 artifact won less than 5 % over float, which is what machines like this vary by."""
    ratios = {name: result.checked.latency.ratio for name, result in results.items() if result.checked.latency}
    return [name for name, ratio in ratios.items() if ratio is not None and ratio < 1.05]


def _seconds(seconds: dict[str, float]) -> tuple[float, float]:
    verification = seconds.get(_VERIFICATION, 0.0)
    return sum(seconds.values()) - verification, verification


def _stages(seconds: dict[str, float]) -> str:
    return ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items() if stage != _VERIFICATION)


def _print_saturation(console: Console, name: str, proof: SaturationProof | None) -> None:
    """Which layers can saturate, where a recipe does not see to it that none can."""
    if proof is not None and proof.unsafe:
        channels = f"{sum(proof.unsafe.values())} of {proof.channels}"
        console.print(
            f"{name} can saturate on {proof.isa} in {channels} channels: {first_few(list(proof.unsafe))}",
            soft_wrap=True,
        )


def _print_floats(console: Console, name: str, plan: Plan) -> None:
    if not plan.floats:
        return
    console.print(f"{name} runs {plural(len(plan.floats), 'op')} in float:")
    for reason, nodes in group_reasons((skip.node, skip.reason) for skip in plan.floats).items():
        console.print(f"  {len(nodes)} × {reason}: {first_few(nodes)}", soft_wrap=True)


def to_json(outcome: Outcome) -> dict[str, Any]:
    """The same as plain data. Seconds and bytes; shares as hits of total with their 95 % interval."""
    report = outcome.report
    build, verification = _seconds(report.seconds)
    return {
        "fxedge": __version__,
        "bundle": str(outcome.out),
        "model": None if report.manifest is None else report.manifest.model,
        "float_accuracy": _share_json(report.reference.accuracy if report.reference else None),
        "seconds": {
            "module_to_artifact": round(build, 3),
            "verification": round(verification, 3),
            "stages": {stage: round(value, 3) for stage, value in report.seconds.items()},
        },
        "targets": {name: _target_json(result) for name, result in report.results.items()},
        "explanations": {name: found.to_json() for name, found in report.explanations.items()},
        "failures": {name: _failure_json(error) for name, error in report.failures.items()},
        "skipped": outcome.skipped,
    }


def _target_json(result: TargetResult) -> dict[str, Any]:
    checked, plan = result.checked, result.lowered.plan
    relieved = max_drop_entry(result.max_drop)
    return {
        "accuracy": _share_json(checked.accuracy),
        "agreement": _share_json(checked.agreement),
        "parity": {
            "nodes": len(checked.nodes),
            "nodes_exact": sum(node.worst == 0 for node in checked.nodes),
            "nodes_worst_lsb": max((node.worst for node in checked.nodes), default=0),
            "end_to_end": dataclasses.asdict(checked.end_to_end),
        },
        "saturation": _saturation_json(result),
        "size": result.size,
        "float_size": result.float_size,
        "latency": None if checked.latency is None else dataclasses.asdict(checked.latency),
        "max_drop": None if relieved is None else relieved.model_dump(),
        "integer_ops": len(plan.ops),
        "float_ops": [{"node": skip.node, "reason": skip.reason} for skip in plan.floats],
    }


def _saturation_json(result: TargetResult) -> dict[str, Any] | None:
    entry = saturation_entry(result.lowered)
    return None if entry is None else entry.model_dump()


def _share_json(share: Share | None) -> dict[str, Any] | None:
    entry = share_entry(share)
    return None if entry is None else entry.model_dump()


def _failure_json(error: Exception) -> dict[str, str]:
    return {"kind": type(error).__name__, "message": str(error)}
