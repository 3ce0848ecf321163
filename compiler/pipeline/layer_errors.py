"""How far each integer value of a program is from the float value that it stands for.

Each is compared, dequantized, with the value of the same name in the float graph: once as the program computes it
(with the error of everything before it), once computed from the float values themselves, quantized (the error of
this layer alone). Weights are compared with the float ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from ..ir.constants import constant
from ..ir.nodes import module_path, placeholders
from ..ir.ops import OPS, op_name
from ..quant.program import IntegerStep, Program, QuantizeStep
from ..quant.qparams import dequantize
from ..quant.simulate import run_node, simulate
from .loss import ErrorSums

# Values whose samples are held at once, in bytes.
_BUDGET = 2**28


@dataclass(frozen=True, slots=True)
class LayerError:
    """One integer value: the node that gives it and its module; SQNR in dB and cosine of the accumulated error and
    of the layer's own; the SQNR of its weight. What cannot be told is None."""

    value: str
    node: str
    module: str
    op: str
    sqnr: float
    cosine: float | None
    own_sqnr: float
    own_cosine: float | None
    weight_sqnr: float | None


@dataclass(slots=True)
class LayerErrors:
    """The errors of a program's values, added up over batches: a few samples are enough.

    Values that the float graph does not have under the same name and shape are left out. `values` maps the others,
    in the order of execution, to the float graph's names.
    """

    gm: fx.GraphModule
    program: Program
    values: dict[str, str] = field(init=False)
    _accumulated: dict[str, ErrorSums] = field(init=False)
    _own: dict[str, ErrorSums] = field(init=False)

    def __post_init__(self) -> None:
        self.values = _matched(self.gm, self.program)
        self._accumulated = {name: ErrorSums() for name in self.values}
        self._own = {name: ErrorSums() for name in self.values}

    def add(self, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """One batch, small enough to hold every value; gives the float values by integer value's name."""
        floats = float_values(self.gm, batch, set(self.values.values()))
        qparams = self.program.integer_values()
        result = simulate(self.program, batch, keep=list(self.values)).integers
        for value in [v for v, name in self.values.items() if result[v].shape != floats[name].shape]:
            del self.values[value]
        for value, name in self.values.items():
            self._accumulated[value].add(dequantize(result[value], qparams[value]), floats[name])
        forced = {v: self.program.spec.quantize(floats[name], qparams[v]) for v, name in self.values.items()}
        result = simulate(self.program, batch, keep=list(self.values), forced=forced).integers
        for value, name in self.values.items():
            self._own[value].add(dequantize(result[value], qparams[value]), floats[name])
        return {value: floats[name] for value, name in self.values.items()}

    def layers(self) -> tuple[LayerError, ...]:
        return tuple(map(self._layer, self.values))

    def _layer(self, value: str) -> LayerError:
        step = steps_by_value(self.program)[value]
        node = producer(self.program, step)
        accumulated, own = self._accumulated[value], self._own[value]
        return LayerError(
            value,
            node.name,
            module_path(node),
            op_name(node.target).partition(".")[0] if node.op == "call_function" else node.op,
            accumulated.sqnr,
            accumulated.cosine,
            own.sqnr,
            own.cosine,
            _weight_sqnr(self.gm, step) if isinstance(step, IntegerStep) else None,
        )


def parts_within_budget(gm: fx.GraphModule, batch: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    """The batch in parts whose values, all held at once, take about `_BUDGET` bytes; whole if it cannot be cut."""
    sample = 0
    for node in gm.graph.nodes:
        meta = node.meta.get("val")
        if isinstance(meta, Tensor) and meta.ndim and node.op == "call_function":
            sample += 4 * int(torch.Size([size for size in meta.shape[1:] if isinstance(size, int)]).numel())
    fixed = any(isinstance(node.meta["val"].shape[0], int) for node in placeholders(gm) if node.meta["val"].ndim)
    size = len(batch[0]) if fixed else max(1, _BUDGET // max(1, sample))
    yield from zip(*(tensor.split(size) for tensor in batch), strict=True)


def float_values(gm: fx.GraphModule, batch: tuple[Tensor, ...], wanted: set[str]) -> dict[str, Tensor]:
    """The values called `wanted`, each run once; everything is held."""
    values: dict[str, Any] = {n.name: x for n, x in zip(placeholders(gm), batch, strict=True)}
    for node in gm.graph.nodes:
        if node.op == "call_function":
            values[node.name] = run_node(gm, node, values)
    return {name: values[name] for name in wanted}


def steps_by_value(program: Program) -> dict[str, IntegerStep | QuantizeStep]:
    """What computes each integer value."""
    return {step.name: step for step in program.steps if isinstance(step, IntegerStep | QuantizeStep)}


def producer(program: Program, step: IntegerStep | QuantizeStep) -> fx.Node:
    """The node whose result a step gives as integers."""
    if isinstance(step, IntegerStep):
        return step.anchor
    return next(node for node in program.gm.graph.nodes if node.name == step.source)


def _matched(gm: fx.GraphModule, program: Program) -> dict[str, str]:
    """Integer value -> the float graph's value of the same name that it stands for, in order of execution."""
    names = {node.name for node in gm.graph.nodes}
    quantizers = {node.name: node for node in program.gm.graph.nodes}
    found = {}
    for value in program.integer_values():
        source = quantizers[value].args[0]
        if isinstance(source, fx.Node) and source.name in names:
            found[value] = source.name
    return found


def _weight_sqnr(gm: fx.GraphModule, step: IntegerStep) -> float | None:
    info = OPS.get(step.anchor.target)  # type: ignore[call-overload]
    origin = next((node for node in gm.graph.nodes if node.name == step.anchor.name), None)
    if info is None or origin is None or step.weight is None or step.weight_qparams is None:
        return None
    weight = constant(gm, origin.args[info.weight])
    if weight is None or weight.shape != step.weight.shape:
        return None
    sums = ErrorSums()
    sums.add(dequantize(step.weight, step.weight_qparams), weight)
    return sums.sqnr
