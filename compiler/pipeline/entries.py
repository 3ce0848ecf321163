"""Measured values -> manifest entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ...backends.base import Backend
from ...passes.fix_saturation import FixSaturation
from ..ir.nodes import input_name, placeholders
from ..ir.ops import OPS
from ..ir.passes import PassReport
from ..ir.shapes import tensor_meta
from ..quant.calibrate import CalibrationStats
from .accuracy import Share
from .best import Attempt
from .check import Checked
from .data import Dataset
from .lower import FloatModel, Lowered
from .manifest import (
    CalibrationEntry,
    KernelsEntry,
    MaxDropEntry,
    OutputEntry,
    ParityEntry,
    PassEntry,
    SaturationEntry,
    ShareEntry,
    TargetEntry,
    TensorEntry,
)
from .max_drop import MaxDrop
from .options import CompileOptions
from .other_kernels import OtherKernels
from .parity import EndToEnd, output_qparams
from .recipes import DATA_FREE


def share_entry(share: Share | None) -> ShareEntry | None:
    if share is None:
        return None
    low, high = share.interval
    return ShareEntry(hits=share.hits, total=share.total, low=round(low, 6), high=round(high, 6))


def calibration_entry(stats: CalibrationStats, data: Dataset) -> CalibrationEntry:
    return CalibrationEntry(method=stats.method, samples=stats.samples, sha256=data.fingerprint())


def compile_notes(attempts: Sequence[Attempt], model: FloatModel, options: CompileOptions) -> tuple[str, ...]:
    """What must be known of how this was compiled: what `best` tried, what the data-free recipe had to make up."""
    tried = [
        f"best: {item.option} {item.value}: {item.loss.sqnr:.2f} dB on held-out samples"
        + (" (kept)" if item.kept else "")
        for item in attempts
    ]
    if options.recipe != DATA_FREE:
        return tuple(tried)
    layers = [node for node in model.gm.graph.nodes if node.target in OPS]
    bare = [node.name for node in layers if str(node.args[1]) not in _with_statistics(model)]
    return (
        *tried,
        f"data-free: ranges and means come from synthetic images; {len(bare)} of {len(layers)} layers have no "
        f"batch norm statistics of their own ({', '.join(bare[:5])}{', ...' if len(bare) > 5 else ''})",
    )


def _with_statistics(model: FloatModel) -> set[str]:
    """Names of the weight nodes whose layers had a batch norm."""
    nodes = [node for node in model.gm.graph.nodes if node.op == "get_attr"]
    return {node.name for node in nodes if str(node.target) in model.channel_stats.by_weight}


def pass_entries(report: PassReport) -> tuple[PassEntry, ...]:
    return tuple(
        PassEntry(
            name=name,
            changes=result.changes,
            skipped=tuple(map(str, result.skipped)),
            notes=tuple(map(str, result.notes)),
            max_error=report.max_error.get(name),
            rolled_back=result.rolled_back,
        )
        for name, result in report.items()
    )


def input_entries(model: FloatModel) -> tuple[TensorEntry, ...]:
    """Name, dtype and shape of each input; the dynamic axes have size None."""
    entries = []
    for node in placeholders(model.gm):
        meta = tensor_meta(node)
        assert meta is not None
        shape = tuple(size if isinstance(size, int) else None for size in meta.shape)
        entries.append(TensorEntry(name=input_name(node), dtype=_dtype(meta), shape=shape))
    return tuple(entries)


def saturation_entry(lowered: Lowered) -> SaturationEntry | None:
    proof = lowered.saturation
    if proof is None:
        return None
    fixes = [result for name, result in lowered.passes.items() if name.startswith(FixSaturation.name)]
    return SaturationEntry(
        isa=proof.isa,
        channels=proof.channels,
        proven=proof.channels - sum(proof.unsafe.values()),
        repaired=max((result.changes for result in fixes), default=0),
        largest=proof.largest,
        unsafe=dict(proof.unsafe),
    )


def max_drop_entry(found: MaxDrop | None) -> MaxDropEntry | None:
    if found is None:
        return None
    return MaxDropEntry(
        wider=found.relief.wider,
        floats=found.relief.floats,
        drop=round(found.drop, 6),
        without=round(found.without, 6),
        unit=found.unit,
        samples=found.samples,
    )


def target_entry(
    backend: Backend,
    lowered: Lowered,
    checked: Checked,
    options: CompileOptions,
    relieved: MaxDrop | None = None,
    others: Mapping[str, OtherKernels] | None = None,
) -> TargetEntry:
    name = backend.spec.name
    program, end = lowered.program, checked.end_to_end
    outputs = [
        OutputEntry(name=output, scale=qp.scale[0], zero_point=qp.zero_point[0])
        if qp
        else OutputEntry(name=output)
        for output, qp in zip(program.outputs, output_qparams(program), strict=True)
    ]
    return TargetEntry(
        artifact=f"{name}/{backend.artifact}",
        float_artifact=f"{name}/float_{backend.artifact}" if options.float_artifact else None,
        golden=f"golden/{name}.safetensors",
        runtime=backend.versions(),
        isa=", ".join(backend.spec.isa),
        integer_ops=len(lowered.plan.ops),
        float_ops=tuple(map(str, lowered.plan.floats)),
        outputs=tuple(outputs),
        passes=pass_entries(lowered.passes),
        parity=ParityEntry(
            nodes=len(checked.nodes),
            nodes_exact=sum(node.worst == 0 for node in checked.nodes),
            nodes_worst_lsb=max((node.worst for node in checked.nodes), default=0),
            exact=end.exact,
            worst_lsb=end.worst_lsb,
            differing=end.differing,
            total=end.total,
            worst_float=end.worst_float,
            flips=end.flips,
            samples=end.samples,
        ),
        tolerance_lsb=_tolerance_lsb(checked.golden_worst),
        tolerance_float=_tolerance_float(backend, checked.golden_worst),
        accuracy=share_entry(checked.accuracy),
        agreement=share_entry(checked.agreement),
        notes=(*backend.spec.notes, *lowered.notes, *_kernels_notes(others or {})),
        max_drop=max_drop_entry(relieved),
        saturation=saturation_entry(lowered),
        also=tuple(f"{name}/{form}" for form in backend.spec.also),
        kernels={
            kernels: _kernels_entry(backend, kernels, other, other.worst or checked.golden_worst)
            for kernels, other in (others or {}).items()
        },
    )


def golden_by(target: str, kernels: str) -> str:
    """Where a bundle has the golden outputs by other kernels than the target's own."""
    return f"golden/{target}.{kernels}.safetensors"


def _kernels_notes(others: Mapping[str, OtherKernels]) -> tuple[str, ...]:
    """How far the outputs by other kernels are from those by the target's own, on the golden inputs."""
    notes = []
    for name, other in others.items():
        apart, how = other.apart, "simulated" if other.worst is None else "simulated and run here"
        parts = (
            [f"up to {apart.worst_lsb} LSB in {apart.differing} of {apart.total} values"] if apart.total else []
        )
        parts += [f"{apart.worst_float:.2g} of float outputs' magnitude"] if apart.worst_float else []
        parts += [f"{apart.flips} of {apart.samples} top-1 predictions"]
        notes.append(f"By the {name} kernels ({how}) the golden outputs differ by {', '.join(parts)}.")
    return tuple(notes)


def _kernels_entry(backend: Backend, name: str, other: OtherKernels, worst: EndToEnd) -> KernelsEntry:
    apart = other.apart
    return KernelsEntry(
        golden=golden_by(backend.spec.name, name),
        worst_lsb=apart.worst_lsb,
        differing=apart.differing,
        total=apart.total,
        worst_float=apart.worst_float,
        flips=apart.flips,
        samples=apart.samples,
        checked=other.worst is not None,
        tolerance_lsb=_tolerance_lsb(worst),
        tolerance_float=_tolerance_float(backend, worst),
    )


def _tolerance_lsb(worst: EndToEnd) -> int:
    return 0 if worst.exact else max(1, worst.worst_lsb)


def _tolerance_float(backend: Backend, worst: EndToEnd) -> float:
    return max(backend.spec.float_tolerance, 2 * worst.worst_float)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
