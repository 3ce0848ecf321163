"""One target's artifact against its program: node by node, end to end, accuracy, latency, golden outputs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, fx

from ...backends.base import Backend
from ..ir.errors import VerificationError
from ..ir.passes import evaluate, flatten_tensors
from ..ir.progress import Progress
from ..quant.isa import native_isa, native_spec
from ..quant.program import Program, computed_by
from ..quant.qparams import QParams
from ..quant.saturation import unproven_here
from ..quant.simulate import simulate
from .accuracy import Share, accuracy, top1
from .data import Batch, Dataset
from .fitting import fitting_batches, one_sample
from .hidden import off_when_hidden
from .lower import Lowered
from .parity import (
    EndToEnd,
    EndToEndCount,
    NodeParity,
    allowed_lsb,
    as_integers,
    compare_nodes,
    output_qparams,
    relative_difference,
)
from .runtime import RemoteRuntime

# The most that deployed outputs may differ from the simulator's in the mean, as a share of their root mean square.
_LARGEST_DIFFERENCE = 0.25
# What one LSB at a quantize step behind float ops may grow to at an output.
_EXPOSED_LSB = 2
INT8, FLOAT, EXPOSED = "int8", "float", "exposed"


@dataclass(frozen=True, slots=True)
class Artifacts:
    """Paths of what was emitted for one target; `exposed` has every integer value as an output, `also` holds the
    int8 artifact in further forms."""

    int8: Path
    float: Path | None
    exposed: Path
    also: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Latency:
    """Medians over interleaved runs of one sample, seconds; `ratio` is the median of float / int8 by pair."""

    int8: float
    ratio: float | None = None
    float: float | None = None


@dataclass(frozen=True, slots=True)
class Checked:
    """Everything measured of one target."""

    nodes: tuple[NodeParity, ...]
    end_to_end: EndToEnd
    golden: dict[str, Tensor]
    golden_worst: EndToEnd
    accuracy: Share | None
    agreement: Share | None
    latency: Latency | None


@dataclass(frozen=True, slots=True)
class Reference:
    """Float top-1 predictions on the evaluation data, and the labels where it has some; each [samples]."""

    predicted: np.ndarray
    labels: np.ndarray | None

    @property
    def accuracy(self) -> Share | None:
        return None if self.labels is None else accuracy(self.predicted, self.labels)


def float_reference(gm: fx.GraphModule, data: Dataset, progress: Progress) -> Reference | None:
    """Top-1 of the float model; None where its first output is not [batch, classes]."""
    predicted: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    done = 0
    with progress.track("evaluate float", data.count) as advance:
        for batch in fitting_batches(gm, data):
            logits = evaluate(gm, batch.inputs)[0]
            if logits.ndim != 2:
                return None
            predicted.append(top1(logits.numpy()))
            if batch.labels is not None and is_class(batch.labels):
                labels.append(batch.labels.numpy())
            done += len(logits)
            advance(done)
    found = np.concatenate(labels) if len(labels) == len(predicted) else None
    return Reference(np.concatenate(predicted), found)


def is_class(labels: Tensor) -> bool:
    """One class index for each sample; anything else (a regression's targets) has no top-1 accuracy."""
    return labels.ndim == 1 and not labels.is_floating_point()


def check_target(
    backend: Backend,
    program: Program,
    artifacts: Artifacts,
    golden_inputs: Sequence[Tensor],
    data: Dataset,
    reference: Reference | None,
    *,
    parity_samples: int | None,
    timed_runs: int,
    threads: int,
    progress: Progress,
) -> Checked:
    """Run the artifacts in a process of their own and measure what the manifest says of them.

    They are compared with the kernels of this machine; the golden outputs are by the target's own.

    Raises:
        VerificationError: an integer node is off by more than its tolerance, a path that promises 0 LSB is not
            exact, an op planned as int8 runs in float, or the runtime failed.
    """
    name, golden = backend.spec.name, simulated_outputs(program, golden_inputs)
    if unfused := backend.unfused(program, artifacts.int8):
        raise VerificationError(
            f"{name}: {len(unfused)} op(s) planned as int8 run in float after the runtime's own optimizer: "
            f"{', '.join(unfused[:5])}."
        )
    program = computed_by(program, native_spec(program.spec))
    paths = {INT8: artifacts.int8, EXPOSED: artifacts.exposed}
    if artifacts.float is not None:
        paths[FLOAT] = artifacts.float
    also = {path.name: path for path in artifacts.also}
    with RemoteRuntime(name, paths | also, threads) as runtime:
        nodes = check_nodes(backend, program, runtime, golden_inputs, threads)
        golden_worst = _golden_worst(program, runtime, golden_inputs)
        _check_forms(program, runtime, golden_inputs, also)
        end_to_end, predicted = _evaluate(program, runtime, data, parity_samples, progress)
        _require_end_to_end(name, end_to_end)
        runs = timed_runs if program.spec.own_runtime else 0
        latency = _time(runtime, list(paths), one_sample(program.gm, golden_inputs), runs)
    scored = None if reference is None or reference.labels is None else accuracy(predicted, reference.labels)
    agreement = None if reference is None else accuracy(predicted, reference.predicted)
    return Checked(nodes, end_to_end, golden, golden_worst, scored, agreement, latency)


@contextmanager
def saturation_named(lowered: Lowered) -> Iterator[None]:
    """A check that fails within says so where the program was compiled for processors that cannot saturate and
    this one can."""
    try:
        yield
    except VerificationError as error:
        reason = unproven_here(lowered.program, lowered.saturation, native_isa())
        if reason is None:
            raise
        raise VerificationError(f"{error} {reason}") from error


def check_nodes(
    backend: Backend, program: Program, runtime: RemoteRuntime, inputs: Sequence[Tensor], threads: int
) -> tuple[NodeParity, ...]:
    """Part (a) of parity; raises VerificationError where a node is off by more than it may be."""
    _check_exposed(backend, program, runtime, inputs, threads)
    names = list(program.integer_values())
    exposed = runtime.run(EXPOSED, [tensor.numpy() for tensor in inputs])
    integers = dict(zip(names, exposed[len(exposed) - len(names) :], strict=True))
    nodes = compare_nodes(program, inputs, integers)
    broken = [node for node in nodes if node.worst > node.allowed]
    if broken:
        worst = max(broken, key=lambda node: node.worst)
        raise VerificationError(
            f"{program.spec.name}: {len(broken)} of {len(nodes)} integer nodes differ from the simulator by more "
            f"than allowed; worst {worst.worst} LSB (allowed {worst.allowed}) at {worst.name}, "
            f"{worst.differing} of {worst.total} integers; first {broken[0].name}."
        )
    return nodes


def _check_exposed(
    backend: Backend, program: Program, runtime: RemoteRuntime, inputs: Sequence[Tensor], threads: int
) -> None:
    """The artifact with its integers exposed computes what the artifact itself does."""
    arrays = [tensor.numpy() for tensor in inputs]
    plain = runtime.run(INT8, arrays)
    outputs = runtime.run(EXPOSED, arrays)[: len(plain)]
    exact = not any(allowed_lsb(program).values())
    if all(
        _close(left, right) if qp is None else _same_integers(left, right, qp, exact)
        for qp, left, right in zip(output_qparams(program), plain, outputs, strict=True)
    ):
        return
    off = None if exact else off_when_hidden(backend, program, inputs, threads)
    if off is None and not exact:
        return
    where = "" if off is None else f" ({off.differing} of {off.total} integers of {off.name} differ)"
    raise VerificationError(
        f"{program.spec.name}: with its integers exposed, the artifact gives other outputs than without{where}, "
        "so the node-by-node check would not speak of it."
    )


def _check_forms(program: Program, runtime: RemoteRuntime, inputs: Sequence[Tensor], names: Iterable[str]) -> None:
    """The artifact's further forms give what it gives."""
    arrays = [tensor.numpy() for tensor in inputs]
    plain = runtime.run(INT8, arrays)
    exact = not any(allowed_lsb(program).values())
    for name in names:
        for qp, left, right in zip(output_qparams(program), plain, runtime.run(name, arrays), strict=True):
            if not (_close(left, right) if qp is None else _same_integers(left, right, qp, exact)):
                raise VerificationError(
                    f"{program.spec.name}: {name} gives other outputs than the artifact itself."
                )


def _same_integers(left: np.ndarray, right: np.ndarray, qp: QParams, exact: bool) -> bool:
    """Equal where every step is exact; a quantize step behind float ops may round otherwise once exposed."""
    if exact:
        return np.array_equal(left, right)
    off = np.abs(as_integers(left, qp) - as_integers(right, qp))
    return int(off.max(initial=0)) <= _EXPOSED_LSB


def _close(left: np.ndarray, right: np.ndarray) -> bool:
    """Float outputs, equal but for rounding."""
    return relative_difference(left, right) <= 1e-5


def _require_end_to_end(name: str, end_to_end: EndToEnd) -> None:
    """0 LSB where it is owed, else a ceiling on the mean: one LSB early grows, and moves single values by much
    (boxes of a detector by a third of the largest, its outputs by 10 % in the mean); a wrong artifact moves most.
    """
    if end_to_end.exact and end_to_end.worst_lsb > 0:
        raise VerificationError(
            f"{name}: every step promises 0 LSB, but the outputs differ by {end_to_end.worst_lsb} LSB "
            f"({end_to_end.differing} of {end_to_end.total} integers)."
        )
    if not math.isfinite(end_to_end.worst_float):
        raise VerificationError(
            f"{name}: an output has NaN or infinity where the simulator has none, or the other way round, or "
            "another shape."
        )
    if end_to_end.rms > _LARGEST_DIFFERENCE:
        raise VerificationError(
            f"{name}: the outputs are off the simulator's by {end_to_end.rms:.0%} of their root mean square (at "
            f"worst {end_to_end.worst_lsb} LSB, or {end_to_end.worst_float:.2g} of a float output's magnitude); "
            f"{_LARGEST_DIFFERENCE:.0%} is the most that steps within their tolerance explain."
        )


def simulated_outputs(program: Program, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """The simulator's outputs by name, each in memory of its own."""
    outputs = simulate(program, inputs).outputs
    # safetensors takes no tensors that share memory, as two names of one value do
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in outputs.items()}


def _golden_worst(program: Program, runtime: RemoteRuntime, inputs: Sequence[Tensor]) -> EndToEnd:
    """How far the runtime is here from the simulator on the golden inputs."""
    count = EndToEndCount(program)
    simulated = arrays(simulate(program, inputs).outputs.values())
    count.add(runtime.run(INT8, [tensor.numpy() for tensor in inputs]), simulated)
    return count.result()


def _evaluate(
    program: Program, runtime: RemoteRuntime, data: Dataset, limit: int | None, progress: Progress
) -> tuple[EndToEnd, np.ndarray]:
    """Deployed outputs over `data`; the first `limit` samples are simulated too and compared."""
    count = EndToEndCount(program)
    predicted: list[np.ndarray] = []
    done = 0
    with progress.track(f"evaluate {program.spec.name}", data.count) as advance:
        for batch in fitting_batches(program.gm, data):
            deployed = runtime.run(INT8, [tensor.numpy() for tensor in batch.inputs])
            if deployed[0].ndim == 2:
                predicted.append(top1(deployed[0]))
            for part, rows in _first(batch, limit, done):
                simulated = arrays(simulate(program, part).outputs.values())
                count.add([output[rows] for output in deployed], simulated)
            done += len(batch.inputs[0])
            advance(done)
    return count.result(), np.concatenate(predicted) if predicted else np.empty(0, dtype=np.int64)


def _first(batch: Batch, limit: int | None, done: int) -> Iterator[tuple[tuple[Tensor, ...], slice]]:
    size = len(batch.inputs[0])
    wanted = size if limit is None else max(0, min(size, limit - done))
    if wanted:
        yield tuple(tensor[:wanted] for tensor in batch.inputs), slice(0, wanted)


def _time(runtime: RemoteRuntime, keys: list[str], inputs: Sequence[Tensor], repeats: int) -> Latency | None:
    if repeats == 0:
        return None
    keys = [key for key in keys if key != EXPOSED]
    seconds = runtime.time(keys, [tensor.numpy() for tensor in inputs], repeats)
    int8 = statistics.median(seconds[INT8])
    if FLOAT not in seconds:
        return Latency(int8)
    ratios = [f / i for f, i in zip(seconds[FLOAT], seconds[INT8], strict=True)]
    return Latency(int8, statistics.median(ratios), statistics.median(seconds[FLOAT]))


def arrays(tensors: Iterable[Tensor]) -> list[np.ndarray]:
    """Tensors, or lists of them, one after the other."""
    with torch.no_grad():
        return [tensor.numpy() for tensor in flatten_tensors(list(tensors))]
