"""`fxedge targets`: what each target accepts and how exactly its arithmetic is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from ...backends import registry
from ..ir.ops import op_name
from ..quant.qparams import QSpec
from ..quant.target import TargetSpec
from .tables import make_table, print_table


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
        "channel_clamp": spec.channel_clamp,
        "notes": list(spec.notes),
        "missing": backend.missing(),
    }


def spec_text(spec: QSpec) -> str:
    """`uint8 0..255`, `int8 ±127 per channel`."""
    dtype = str(spec.dtype).removeprefix("torch.")
    bounds = f"±{spec.qmax}" if spec.symmetric and spec.qmin == -spec.qmax else f"{spec.qmin}..{spec.qmax}"
    return f"{dtype} {bounds}{' per channel' if spec.per_channel else ''}"


def print_targets(console: Console, found: dict[str, dict[str, Any]]) -> None:
    table = make_table("target", "activations", "weights", "bias", "int8 ops", "isa", "installed")
    for name, facts in found.items():
        table.add_row(
            name,
            facts["activations"],
            facts["weights"],
            facts["bias"],
            str(len(facts["integer_ops"])),
            ", ".join(facts["isa"]) or "any",
            "yes" if facts["missing"] is None else "no",
        )
    print_table(console, table)
    for name, facts in found.items():
        missing = () if facts["missing"] is None else (facts["missing"],)
        for line in (_exactness(facts["not_exact"]), *facts["notes"], *missing):
            console.print(f"{name}: {line}", soft_wrap=True)


def _exactness(not_exact: Mapping[str, int]) -> str:
    """Which ops may be off, by how much; every other integer op is exact."""
    if not not_exact:
        return "every integer op is exact."
    by_lsb: dict[int, list[str]] = {}
    for op, lsb in not_exact.items():
        by_lsb.setdefault(lsb, []).append(op.partition(".")[0])
    groups = [f"{', '.join(ops)} within {lsb} LSB" for lsb, ops in sorted(by_lsb.items())]
    return f"{'; '.join(groups)}; every other integer op is exact."
