"""Where a target's loss comes from: by layer, by pass, and the first layer that it is owed to."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ..ir.constants import constant
from ..ir.nodes import module_path, output_node, placeholders
from ..ir.passes import evaluate, flatten_tensors
from ..ir.progress import Progress, Silent
from ..quant.program import Program
from ..quant.qparams import dequantize
from ..quant.simulate import run_node, simulate
from .ablation import PassEffect
from .layer_errors import LayerError, LayerErrors, parts_within_budget, producer, steps_by_value
from .loss import Loss, OutputLoss, finite_or_none
from .lower import FloatModel

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Culprit:
    """The first layer after which `share` of the output's noise is there when everything behind it runs in float;
    `before` is the share without it."""

    node: str
    module: str
    before: float
    share: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """`passes` as `PassWatch.effects`; `layers` in the order of execution, measured on `samples` samples; `loss`
    of the final program on those; `culprit` None where nothing is lost. `unseen` says that nothing was tuned on
    the samples that passes and layers are judged by."""

    target: str
    samples: int
    passes: tuple[PassEffect, ...]
    layers: tuple[LayerError, ...]
    loss: Loss
    culprit: Culprit | None
    unseen: bool = False

    def worst_pass(self) -> tuple[PassEffect, float] | None:
        """The pass after which the outputs' SQNR fell most, and by how many dB; None where none fell by 1 dB."""
        steps = [(after, fall) for after, fall in self._falls() if fall >= 1]
        return max(steps, key=lambda step: step[1], default=None)

    def _falls(self) -> Iterator[tuple[PassEffect, float]]:
        known = [effect for effect in self.passes if effect.loss is not None]
        for before, after in itertools.pairwise(known):
            assert before.loss is not None
            assert after.loss is not None
            if before.loss.sqnr != after.loss.sqnr:
                yield after, before.loss.sqnr - after.loss.sqnr

    def to_json(self) -> dict[str, Any]:
        """Plain data; an SQNR (dB) is null where nothing differs or the float value is zero."""
        worst = self.worst_pass()
        return {
            "schema_version": SCHEMA_VERSION,
            "target": self.target,
            "samples": self.samples,
            "unseen": self.unseen,
            "loss": _loss_json(self.loss),
            "passes": [_pass_json(effect) for effect in self.passes],
            "layers": [_layer_json(layer) for layer in self.layers],
            "worst_pass": None if worst is None else {"name": worst[0].name, "fall_db": finite_or_none(worst[1])},
            "culprit": None if self.culprit is None else _culprit_json(self.culprit),
        }


def explain(
    model: FloatModel,
    program: Program,
    batches: Iterable[tuple[Tensor, ...]],
    passes: Sequence[PassEffect] = (),
    progress: Progress | None = None,
    *,
    unseen: bool = False,
) -> Explanation:
    """Compare `program` with the float graph of `model`, value by value (see `LayerErrors`), over `batches`: a few
    samples are enough. `unseen` is as in `Explanation`."""
    progress = progress or Silent()
    errors, loss, samples, first = LayerErrors(model.gm, program), OutputLoss(), 0, None
    with torch.no_grad(), progress.track("explain layers") as advance:
        for batch in batches:
            for part in parts_within_budget(model.gm, batch):
                first = first or part
                errors.add(part)
                outputs = simulate(program, part).outputs
                loss.add(flatten_tensors(list(outputs.values())), evaluate(model.gm, part))
                samples += len(part[0])
                advance(samples)
        culprit = None if first is None else _find_culprit(model.gm, program, first, errors.values)
    return Explanation(program.spec.name, samples, tuple(passes), errors.layers(), loss.result(), culprit, unseen)


def _find_culprit(
    gm: fx.GraphModule, program: Program, batch: tuple[Tensor, ...], values: Mapping[str, str]
) -> Culprit | None:
    """Bisect: integers up to a value, float from there on. Half of the noise comes in between two neighbours."""
    names, qparams = list(values), program.integer_values()
    kept = simulate(program, batch, keep=names).integers
    small = {name: kept[name].to(qparams[name].dtype) for name in names}
    expected = evaluate(gm, batch)

    def noise(count: int) -> float:
        known = {values[name]: dequantize(small[name], qparams[name]) for name in names[:count]}
        loss = OutputLoss()
        loss.add(_run_from(gm, batch, known), expected)
        return loss.result().noise

    total = noise(len(names)) if names else 0.0
    if total == 0:
        return None
    low, high, below, above = 0, len(names), 0.0, total
    while high - low > 1:
        middle = (low + high) // 2
        found = noise(middle)
        if found >= total / 2:
            high, above = middle, found
        else:
            low, below = middle, found
    node = producer(program, steps_by_value(program)[names[high - 1]])
    return Culprit(node.name, module_path(node), below / total, above / total)


def _run_from(gm: fx.GraphModule, batch: tuple[Tensor, ...], known: Mapping[str, Tensor]) -> list[Tensor]:
    """The float graph's outputs where the values in `known` are given."""
    values: dict[str, Any] = {n.name: x for n, x in zip(placeholders(gm), batch, strict=True)}
    values |= known
    for node in gm.graph.nodes:
        if node.op == "call_function" and node.name not in known:
            values[node.name] = run_node(gm, node, values)
    outputs = fx.map_arg(output_node(gm).args[0], lambda node: values.get(node.name, constant(gm, node)))
    return flatten_tensors(outputs)


def _loss_json(loss: Loss | None) -> dict[str, Any] | None:
    if loss is None:
        return None
    changed = None if loss.changed is None else {"hits": loss.changed.hits, "total": loss.changed.total}
    return {"sqnr_db": finite_or_none(loss.sqnr), "changed": changed}


def _pass_json(effect: PassEffect) -> dict[str, Any]:
    return {
        "name": effect.name,
        "stage": effect.stage,
        "changes": effect.changes,
        "max_error": effect.max_error,
        "rolled_back": effect.rolled_back,
        "notes": list(effect.notes),
        "loss": _loss_json(effect.loss),
    }


def _layer_json(layer: LayerError) -> dict[str, Any]:
    return {
        "node": layer.node,
        "module": layer.module,
        "op": layer.op,
        "sqnr_db": finite_or_none(layer.sqnr),
        "cosine": None if layer.cosine is None else round(layer.cosine, 6),
        "own_sqnr_db": finite_or_none(layer.own_sqnr),
        "own_cosine": None if layer.own_cosine is None else round(layer.own_cosine, 6),
        "weight_sqnr_db": finite_or_none(layer.weight_sqnr),
    }


def _culprit_json(culprit: Culprit) -> dict[str, Any]:
    return {
        "node": culprit.node,
        "module": culprit.module,
        "before": round(culprit.before, 3),
        "share": round(culprit.share, 3),
    }
