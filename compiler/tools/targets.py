"""`fxedge targets`: what each target accepts and how exactly its arithmetic is known."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from ...backends import registry
from ..ir.ops import op_name
from ..quant.qparams import QSpec
from ..quant.target import TargetSpec
from .tables import make_table


def describe_targets() -> dict[str, dict[str, Any]]:
    """By target: specs as text, counts, the ops known to within 1 LSB or more, and whether it runs here."""
    return {name: _describe(name) for name in registry.names()}


def _describe(name: str) -> dict[str, Any]:
    backend = registry.get(name)
    spec: TargetSpec = backend.spec
    return {
        "activations": spec_text(spec.activation),
        "weights": spec_text(spec.weight),
        "bias": spec.bias,
        "integer_ops": [op_name(op) for op in spec.ops],
        "not_exact": {op_name(op): rule.tolerance for op, rule in spec.ops.items() if rule.tolerance},
        "isa": list(spec.isa),
        "notes": list(spec.notes),
        "missing": backend.missing(),
    }


def spec_text(spec: QSpec) -> str:
    """`uint8 0..255`, `int8 -127..127 symmetric, per channel`."""
    dtype = str(spec.dtype).removeprefix("torch.")
    extras = [word for word, holds in (("symmetric", spec.symmetric), ("per channel", spec.per_channel)) if holds]
    return " ".join([f"{dtype} {spec.qmin}..{spec.qmax}", ", ".join(extras)]).strip()


def print_targets(console: Console, found: dict[str, dict[str, Any]]) -> None:
    table = make_table(
        "target", "activations", "weights", "bias", "int8 ops", "not exact (LSB)", "isa", "installed"
    )
    for name, facts in found.items():
        table.add_row(
            name,
            facts["activations"],
            facts["weights"],
            facts["bias"],
            str(len(facts["integer_ops"])),
            ", ".join(f"{op.partition('.')[0]} {lsb}" for op, lsb in facts["not_exact"].items()) or "none",
            ", ".join(facts["isa"]) or "any",
            "yes" if facts["missing"] is None else "no",
        )
    console.print(table)
    for name, facts in found.items():
        lines = [*facts["notes"], *([facts["missing"]] if facts["missing"] else [])]
        for line in lines:
            console.print(f"{name}: {line}", markup=False, soft_wrap=True)
