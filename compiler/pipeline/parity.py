"""Simulated against deployed, counted in LSB, with the runtime's optimizer on (DESIGN §5).

(a) Node by node: the artifact is emitted once more with every integer value as an output; each integer node is
simulated from the runtime's own integers and must agree within the tolerance that its rule states.
(b) End to end: the deployed artifact against the simulator on the same inputs: largest difference, share of
differing integers, top-1 flips (ties go to the lowest index).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..quant.program import DequantizeStep, IntegerStep, Program, QuantizeStep
from ..quant.qparams import QParams
from ..quant.simulate import simulate

# A quantize step behind float ops: float kernels of two libraries differ in the last bit, which moves an
# integer by one where the value lies next to a rounding boundary.
FLOAT_TOLERANCE = 1


@dataclass(frozen=True, slots=True)
class NodeParity:
    """The worst of one integer node: LSB off, LSB allowed, how many of how many integers differ."""

    name: str
    worst: int
    allowed: int
    differing: int
    total: int


@dataclass(frozen=True, slots=True)
class EndToEnd:
    """Outputs of deployed and simulated: LSB for quantized outputs, units of the output's magnitude for float.

    `exact` says whether every step on the path is exact, so that 0 is owed. `rms` is the root mean square of all
    differences over that of the simulated outputs, zero points taken off.
    """

    worst_lsb: int
    differing: int
    total: int
    worst_float: float
    flips: int
    samples: int
    exact: bool
    rms: float = 0.0


def allowed_lsb(program: Program) -> dict[str, int]:
    """Integer value name -> the LSB by which the runtime may differ from the simulator."""
    allowed = {}
    for step in program.steps:
        if isinstance(step, IntegerStep):
            allowed[step.name] = step.rule.tolerance
        elif isinstance(step, QuantizeStep):
            of_input = step.source in program.inputs
            allowed[step.name] = program.spec.quantize_tolerance if of_input else FLOAT_TOLERANCE
    return allowed


def compare_nodes(
    program: Program, inputs: Sequence[Tensor], runtime_integers: Mapping[str, np.ndarray]
) -> tuple[NodeParity, ...]:
    """Part (a), in execution order. `runtime_integers` are what the exposed artifact gave for `inputs`."""
    forced = {name: torch.from_numpy(value.astype(np.int32)) for name, value in runtime_integers.items()}
    simulated = simulate(program, inputs, keep=list(forced), forced=forced).integers
    allowed = allowed_lsb(program)
    return tuple(_node(name, simulated[name], forced[name], allowed[name]) for name in forced)


def _node(name: str, simulated: Tensor, deployed: Tensor, allowed: int) -> NodeParity:
    if simulated.shape != deployed.shape:
        worst = max(int(simulated.abs().max()), int(deployed.abs().max()), 1)
        return NodeParity(name, worst, allowed, deployed.numel(), deployed.numel())
    off = (simulated - deployed).abs()
    worst = int(off.max()) if off.numel() else 0
    return NodeParity(name, worst, allowed, int((off > 0).sum()), off.numel())


def output_qparams(program: Program) -> tuple[QParams | None, ...]:
    """The parameters of each output that is a dequantized (or bare) integer value; None for float outputs."""
    by_name = {step.name: step.qparams for step in program.steps if isinstance(step, DequantizeStep)}
    by_name |= program.integer_values()
    return tuple(by_name.get(name) for name in program.outputs.values())


def as_integers(output: np.ndarray, qp: QParams) -> np.ndarray:
    """The integers behind a dequantized output."""
    if np.issubdtype(output.dtype, np.integer):
        return output.astype(np.int32)
    return (np.rint(output.astype(np.float64) / qp.scale[0]) + qp.zero_point[0]).astype(np.int32)


def relative_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest |actual - expected| over the largest finite |expected|, for any dtype, booleans too.

    Equal infinities and NaN in the same place differ by nothing; infinite where only one of the two has them, or
    where shapes differ.
    """
    if actual.shape != expected.shape:
        return math.inf
    left, right = actual.astype(np.float64), expected.astype(np.float64)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    off = float(np.abs(left[~same] - right[~same]).max(initial=0.0))
    magnitude = float(np.abs(right[np.isfinite(right)]).max(initial=0.0))
    return off / max(magnitude, 1e-12) if math.isfinite(off) else math.inf


class EndToEndCount:
    """Part (b), added up over batches."""

    def __init__(self, program: Program) -> None:
        self._qparams = output_qparams(program)
        self._exact = all(tolerance == 0 for tolerance in allowed_lsb(program).values()) and all(
            qp is not None for qp in self._qparams
        )
        self._worst_lsb = self._differing = self._total = self._flips = self._samples = 0
        self._worst_float = self._off = self._power = 0.0

    def add(self, deployed: Sequence[np.ndarray], simulated: Sequence[np.ndarray]) -> None:
        """One batch: outputs in order, as the artifact and as the simulator gave them."""
        for qp, left, right in zip(self._qparams, deployed, simulated, strict=True):
            self._add_power(left, right, qp)
            if qp is None:
                self._worst_float = max(self._worst_float, relative_difference(left, right))
                continue
            lsb = np.abs(as_integers(left, qp) - as_integers(right, qp))
            self._worst_lsb = max(self._worst_lsb, int(lsb.max(initial=0)))
            self._differing += int((lsb > 0).sum())
            self._total += lsb.size
        self._samples += len(deployed[0])
        if deployed[0].ndim == 2:
            self._flips += int((deployed[0].argmax(1) != simulated[0].argmax(1)).sum())

    def _add_power(self, deployed: np.ndarray, simulated: np.ndarray, qp: QParams | None) -> None:
        left, right = (as_integers(x, qp) - qp.zero_point[0] if qp else x for x in (deployed, simulated))
        if left.shape != right.shape:  # reported as an infinite difference
            return
        left, right = left.astype(np.float64), right.astype(np.float64)
        finite = np.isfinite(left) & np.isfinite(right)
        self._off += float(np.square(left[finite] - right[finite]).sum())
        self._power += float(np.square(right[finite]).sum())

    def result(self) -> EndToEnd:
        """What was counted so far."""
        return EndToEnd(
            self._worst_lsb,
            self._differing,
            self._total,
            self._worst_float,
            self._flips,
            self._samples,
            self._exact,
            math.sqrt(self._off / max(self._power, 1e-24)),
        )
