"""What `--explain` says of a target: what each pass bought, each layer's error, and where the loss appears."""

from __future__ import annotations

import math

from rich.console import Console

from ..ir.passes import CLOSE_TOLERANCE
from ..pipeline.ablation import PassEffect
from ..pipeline.explain import Culprit, Explanation, LayerError
from ..pipeline.loss import Loss
from ..pipeline.lower import CAPTURE
from ..pipeline.max_drop import MaxDrop, Relief
from .tables import make_table, plural, print_table

# A layer that adds less than this share of the noise is not what the loss is owed to.
_ONE_LAYERS_SHARE = 0.2

_UNSEEN = "samples of --eval, which nothing was tuned on"
_SEEN = "calibration samples, which passes may have been tuned on (--eval brings others)"


def print_explanation(console: Console, found: Explanation) -> None:
    """What each pass bought and said, each layer's error, and the verdict."""
    console.print(f"{found.target}: what each pass bought, judged on {_UNSEEN if found.unseen else _SEEN}")
    passes = make_table("after", "changes", "SQNR", "top-1 as float", "certificate")
    for effect in found.passes:
        passes.add_row(*_pass_row(effect))
    print_table(console, passes)
    for effect in found.passes:
        for note in effect.notes:
            console.print(f"{effect.name} {note}", soft_wrap=True)
    console.print(f"\n{found.target}: error of each integer value, {plural(found.samples, 'sample')}")
    layers = make_table("value of", "module", "SQNR", "cosine", "own SQNR", "own cosine", "weight SQNR")
    for layer in found.layers:
        layers.add_row(*_layer_row(layer))
    print_table(console, layers)
    console.print()
    for line in _verdict(found):
        console.print(line, soft_wrap=True)


def relief_line(target: str, found: MaxDrop) -> str:
    """What `--max-drop` found, and which layers it relieved."""
    counted = f"on {plural(found.samples, 'held-out sample')}"
    if found.relief == Relief():
        return f"{target}: loses {found.drop:.2f} {found.unit} {counted}; no layer had to be relieved."
    parts = []
    if found.relief.wider:
        parts.append(f"8-bit weights for {', '.join(found.relief.wider)}")
    if found.relief.floats:
        parts.append(f"float for {', '.join(found.relief.floats)}")
    return (
        f"{target}: loses {found.drop:.2f} {found.unit} {counted} ({found.without:.2f} without) with "
        f"{' and '.join(parts)}."
    )


def _pass_row(effect: PassEffect) -> tuple[str, ...]:
    changes = "" if effect.name == CAPTURE else str(effect.changes)
    return effect.name, changes, *_loss_cells(effect.loss), certificate(effect.max_error, effect.rolled_back)


def certificate(max_error: float | None, rolled_back: str | None) -> str:
    """What the runner found when it held a pass to its promise on the example inputs; empty where nothing was."""
    if rolled_back is not None:
        return f"rolled back: {rolled_back}"
    if max_error is None:
        return ""
    if max_error == 0:
        return "same outputs"
    return f"outputs moved by {max_error:.1e} of their magnitude (allowed {CLOSE_TOLERANCE:g})"


def _loss_cells(loss: Loss | None) -> tuple[str, str]:
    if loss is None:
        return "not quantizable", "-"
    return _decibel(loss.sqnr), "-" if loss.agreement is None else loss.agreement.format()


def _layer_row(layer: LayerError) -> tuple[str, ...]:
    return (
        layer.node,
        layer.module,
        _decibel(layer.sqnr),
        _cosine(layer.cosine),
        _decibel(layer.own_sqnr),
        _cosine(layer.own_cosine),
        "" if layer.weight_sqnr is None else _decibel(layer.weight_sqnr),
    )


def _decibel(value: float) -> str:
    if value == math.inf:
        return "exact"
    return "no signal" if value == -math.inf else f"{value:.1f} dB"


def _cosine(value: float | None) -> str:
    return "-" if value is None else f"{value:.5f}"


def _verdict(found: Explanation) -> list[str]:
    lines = []
    if (worst := found.worst_pass()) is not None:
        lines.append(f"{worst[0].name} costs {worst[1]:.1f} dB: leave it out, or see what it skipped and changed.")
    if found.culprit is None:
        return [*lines, "Nothing is lost: the outputs are those of the float model."]
    return [*lines, _culprit_line(found.culprit)]


def _culprit_line(culprit: Culprit) -> str:
    where = f"{culprit.module} ({culprit.node})" if culprit.module else culprit.node
    if culprit.share - culprit.before < _ONE_LAYERS_SHARE:
        return (
            f"The loss builds up over many layers: {culprit.share:.0%} of the noise at the outputs is there after "
            f"{where}, with everything behind it in float."
        )
    return (
        f"The loss appears at {where}: with everything behind it in float, {culprit.share:.0%} of the noise at "
        f"the outputs is there already, and {culprit.before:.0%} with everything from it on in float."
    )
