"""The main job: a model and samples in, a verified bundle out."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, fx

from ...backends import registry
from ...backends.base import Backend
from ..ir.capture import Capturable, load_pt2
from ..ir.constants import constants
from ..ir.dump import dump
from ..ir.errors import BackendUnavailableError, FxedgeError, InputError, VerificationError
from ..ir.nodes import input_name, placeholders
from ..ir.progress import Progress, Silent
from ..quant.calibrate import CalibrationStats
from .bundle import list_files, write_manifest, writing_bundle
from .check import Artifacts, Checked, Reference, check_target, float_reference
from .data import Dataset
from .entries import calibration_entry, input_entries, pass_entries, share_entry, target_entry
from .fitting import fixed_batch, in_batches_of
from .lower import FloatModel, Lowered, collect, lower, plan_targets, prepare
from .manifest import Manifest
from .options import CompileOptions

GOLDEN_INPUTS = "golden/inputs.safetensors"


@dataclass(frozen=True, slots=True)
class TargetResult:
    """One target that was compiled and verified. Sizes in bytes."""

    lowered: Lowered
    checked: Checked
    size: int
    float_size: int | None


@dataclass(slots=True)
class CompileReport:
    """What a compilation gave: results and failures by target, and the seconds that each stage took."""

    manifest: Manifest | None = None
    float_model: FloatModel | None = None
    results: dict[str, TargetResult] = field(default_factory=dict)
    failures: dict[str, FxedgeError] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    reference: Reference | None = None

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def usable_backends(names: Sequence[str]) -> tuple[dict[str, Backend], dict[str, FxedgeError]]:
    """The backends of `names` that can run here, and an error for each that cannot.

    Raises:
        InputError: no target has one of the names.
    """
    usable: dict[str, Backend] = {}
    missing: dict[str, FxedgeError] = {}
    for name in dict.fromkeys(names):
        backend = registry.get(name)
        if (reason := backend.missing()) is not None:
            missing[name] = BackendUnavailableError(f"Target {name} cannot be used here: {reason}")
        else:
            usable[name] = backend
    return usable, missing


def compile_model(
    model: Capturable,
    data: Dataset,
    targets: Sequence[str],
    out: str | Path,
    *,
    evaluation: Dataset | None = None,
    options: CompileOptions | None = None,
    model_name: str = "model",
    force: bool = False,
    progress: Progress | None = None,
) -> CompileReport:
    """Compile `model` for `targets` and write the verified bundle to `out`, as a whole or not at all.

    `data` calibrates; accuracy and end-to-end parity are measured on `evaluation` (default: on `data`). A
    target that fails is reported in `failures` and left out of the bundle; the rest is written.

    Raises:
        FxedgeError: nothing could be compiled; for a single target its own error.
    """
    options, progress = options or CompileOptions(), progress or Silent()
    report = CompileReport()
    backends, report.failures = usable_backends(targets)
    if not backends:
        raise _all_failed(report)
    with writing_bundle(Path(out), force=force) as folder:
        with report.timed("capture and passes"), progress.track("capture and passes"):
            model = load_pt2(Path(model)) if isinstance(model, (str, Path)) else model
            batch = fixed_batch(model, options)
            data = in_batches_of(data, batch)
            report.float_model = prepare(
                model, example_inputs(data, batch), options, data.name, _batches(data), progress
            )
        stats = _calibrate(report, backends, data, options, progress)
        golden = golden_inputs(data, batch or options.golden_samples)
        _write_golden(folder / GOLDEN_INPUTS, report.float_model, golden)
        judged = data if evaluation is None else in_batches_of(evaluation, batch)
        with report.timed("verify"):
            report.reference = float_reference(report.float_model.gm, judged, progress)
        for name, backend in backends.items():
            try:
                report.results[name] = _compile_target(
                    report, backend, stats, folder, golden, judged, options, progress
                )
            except FxedgeError as error:
                _discard(folder, name)
                report.failures[name] = error
        if not report.results:
            raise _all_failed(report)
        report.manifest = _manifest(report, backends, data, stats, folder, options, model_name)
        write_manifest(folder, report.manifest)
    return report


def _batches(data: Dataset) -> Callable[[], Iterator[tuple[Tensor, ...]]]:
    return lambda: (batch.inputs for batch in data)


def example_inputs(data: Dataset, count: int | None = None) -> tuple[Tensor, ...]:
    """The first `count` samples, or two (one repeated if need be): what the graph is captured and checked on."""
    first = next(iter(data), None)
    if first is None:
        raise InputError(f"{data.name} has no samples.")
    if count is not None:
        return tuple(tensor[:count] for tensor in first.inputs)
    tensors = tuple(tensor[:2] for tensor in first.inputs)
    return tuple(torch.cat([t, t]) if len(t) == 1 else t for t in tensors)


def golden_inputs(data: Dataset, count: int) -> tuple[Tensor, ...]:
    """The first `count` samples."""
    found: list[tuple[Tensor, ...]] = []
    for batch in data:
        found.append(batch.inputs)
        if sum(len(inputs[0]) for inputs in found) >= count:
            break
    return tuple(torch.cat(parts)[:count].contiguous() for parts in zip(*found, strict=True))


def _calibrate(
    report: CompileReport,
    backends: dict[str, Backend],
    data: Dataset,
    options: CompileOptions,
    progress: Progress,
) -> CalibrationStats:
    assert report.float_model is not None
    plans = plan_targets(report.float_model, [backend.spec for backend in backends.values()], options)
    with report.timed("calibrate"):
        batches = (batch.inputs for batch in data)
        return collect(report.float_model, plans, batches, options, data.count, progress)


def _write_golden(path: Path, model: FloatModel, golden: Sequence[Tensor]) -> None:
    names = [input_name(node) for node in placeholders(model.gm)]
    path.parent.mkdir()
    path.write_bytes(save(dict(zip(names, golden, strict=True))))


def _compile_target(
    report: CompileReport,
    backend: Backend,
    stats: CalibrationStats,
    folder: Path,
    golden: Sequence[Tensor],
    judged: Dataset,
    options: CompileOptions,
    progress: Progress,
) -> TargetResult:
    assert report.float_model is not None
    name = backend.spec.name
    with report.timed("lower and emit"):
        plan = plan_targets(report.float_model, [backend.spec], options)[name]
        lowered = lower(report.float_model, backend.spec, plan, stats, options, progress)
        artifacts = _emit(backend, lowered, report.float_model.gm, folder, options)
    try:
        with report.timed("verify"):
            backend.emit(lowered.program, artifacts.exposed, list(lowered.program.integer_values()))
            checked = check_target(
                backend,
                lowered.program,
                artifacts,
                golden,
                judged,
                report.reference,
                parity_samples=options.parity_samples,
                timed_runs=options.timed_runs,
                threads=options.threads,
                progress=progress,
            )
        (folder / "golden" / f"{name}.safetensors").write_bytes(save(checked.golden))
    finally:
        artifacts.exposed.unlink(missing_ok=True)
    size = artifacts.int8.stat().st_size
    return TargetResult(
        lowered, checked, size, artifacts.float.stat().st_size if artifacts.float is not None else None
    )


def _discard(folder: Path, name: str) -> None:
    """Leave nothing of a target that failed."""
    shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "golden" / f"{name}.safetensors").unlink(missing_ok=True)


def _emit(
    backend: Backend, lowered: Lowered, gm: fx.GraphModule, folder: Path, options: CompileOptions
) -> Artifacts:
    place = folder / backend.spec.name
    place.mkdir()
    int8 = place / backend.artifact
    backend.emit(lowered.program, int8)
    float_path = place / f"float_{backend.artifact}" if options.float_artifact else None
    if float_path is not None:
        backend.emit_float(gm, float_path)
    return Artifacts(int8, float_path, folder / f".{backend.spec.name}_{backend.artifact}")


def _manifest(
    report: CompileReport,
    backends: dict[str, Backend],
    data: Dataset,
    stats: CalibrationStats,
    folder: Path,
    options: CompileOptions,
    model_name: str,
) -> Manifest:
    from ... import __version__

    model = report.float_model
    assert model is not None
    return Manifest(
        fxedge=__version__,
        model=model_name,
        model_sha256=graph_hash(model.gm),
        inputs=input_entries(model),
        preprocess=data.preprocess,
        calibration=calibration_entry(stats, data),
        recipe=options.recipe,
        passes=pass_entries(model.passes),
        float_accuracy=share_entry(report.reference.accuracy) if report.reference else None,
        golden_inputs=GOLDEN_INPUTS,
        targets={
            name: target_entry(backends[name], result.lowered, result.checked, options)
            for name, result in report.results.items()
        },
        files=list_files(folder),
    )


def graph_hash(gm: fx.GraphModule) -> str:
    """sha256 of the float graph's text and of every constant."""
    digest = hashlib.sha256(dump(gm).encode())
    for name, tensor in constants(gm).items():
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _all_failed(report: CompileReport) -> FxedgeError:
    if len(report.failures) == 1:
        return next(iter(report.failures.values()))
    lines = " ".join(f"[{name}] {error}" for name, error in report.failures.items())
    kinds = {type(error) for error in report.failures.values()}
    kind = VerificationError if VerificationError in kinds else InputError
    return kind(f"No target could be compiled. {lines}")
