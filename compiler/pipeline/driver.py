"""The main job: a model and samples in, a verified bundle out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, fx

from ...backends import registry
from ...backends.base import Backend, Describes, HasCompanions
from ..ir.capture import Capturable, load_pt2
from ..ir.constants import constants
from ..ir.dump import dump
from ..ir.errors import BackendUnavailableError, FxedgeError, InputError, VerificationError
from ..ir.nodes import input_name, placeholders
from ..ir.progress import Progress, Silent
from ..ir.qops import is_quantized
from ..quant.calibrate import CalibrationStats
from ..quant.isa import require_isa
from ..quant.target import TargetSpec
from .ablation import PassWatch, watch_compilation
from .best import Attempt, choose_best
from .bundle import list_files, write_manifest, writing_bundle
from .calibration import collect
from .check import Artifacts, Checked, Reference, check_target, float_reference, saturation_named
from .data import Dataset
from .entries import (
    calibration_entry,
    compile_notes,
    golden_by,
    input_entries,
    pass_entries,
    share_entry,
    target_entry,
)
from .explain import Explanation, explain
from .fitting import example_inputs, fixed_batch, in_batches_of
from .float_budget import within_budget
from .foreign import AS_IT_CAME, lower_quantized, require_no_choices
from .holdout import few_samples
from .layers import FOLDER as LAYERS
from .layers import describe_layers, write_layers
from .lower import FloatModel, Lowered, lower, plan_targets, prepare
from .manifest import Manifest
from .max_drop import MaxDrop, Relief, within_drop
from .options import CompileOptions
from .other_kernels import OtherKernels, check_other_kernels
from .recipes import BEST

GOLDEN_INPUTS = "golden/inputs.safetensors"

# Samples on which single layers are measured, and on which they are explained.
_LAYER_SAMPLES, _EXPLAINED = 4, 8


@dataclass(frozen=True, slots=True)
class TargetResult:
    """One target that was compiled and verified. Sizes in bytes."""

    lowered: Lowered
    checked: Checked
    size: int
    float_size: int | None
    max_drop: MaxDrop | None = None
    others: dict[str, OtherKernels] = field(default_factory=dict)


@dataclass(slots=True)
class CompileReport:
    """What a compilation gave: results and failures by target, and the seconds that each stage took."""

    manifest: Manifest | None = None
    float_model: FloatModel | None = None
    results: dict[str, TargetResult] = field(default_factory=dict)
    failures: dict[str, FxedgeError] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    reference: Reference | None = None
    attempts: tuple[Attempt, ...] = ()
    explanations: dict[str, Explanation] = field(default_factory=dict)

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
    finish: Callable[[Path, Manifest], None] | None = None,
) -> CompileReport:
    """Compile `model` for `targets` and write the verified bundle to `out`, as a whole or not at all.

    `data` calibrates; accuracy and end-to-end parity are measured on `evaluation` (default: on `data`). A
    target that fails is reported in `failures` and left out of the bundle; the rest is written. `finish` may add
    files to the folder of the otherwise complete bundle, which its manifest then covers too.

    Raises:
        FxedgeError: nothing could be compiled; for a single target its own error.
        InputError: a target knows nothing of the instruction set asked for.
    """
    options, progress = options or CompileOptions(), progress or Silent()
    report = CompileReport()
    backends, report.failures = usable_backends(targets)
    if not backends:
        raise _all_failed(report)
    require_isa([backend.spec for backend in backends.values()], options.isa)
    with writing_bundle(Path(out), force=force) as folder:
        with report.timed("capture and passes"), progress.track("capture and passes"):
            model = load_pt2(Path(model)) if isinstance(model, (str, Path)) else model
            batch = fixed_batch(model, options)
            data = in_batches_of(data, batch)
            evaluation = None if evaluation is None else in_batches_of(evaluation, batch)
            specs = [backend.spec for backend in backends.values()]
            options, report.attempts = _best(model, specs, data, options, progress)
            watch = watch_compilation(specs, options, data, evaluation, progress) if options.explain else None
            after = None if watch is None else watch.float_pass
            examples, batches = example_inputs(data, batch), _batches(data)
            report.float_model = prepare(model, examples, options, data.name, batches, progress, after)
        stats = _calibrate(report, backends, data, options, progress)
        golden = golden_inputs(data, batch or options.golden_samples)
        _write_golden(folder / GOLDEN_INPUTS, report.float_model, golden)
        judged = data if evaluation is None else evaluation
        with report.timed("verify"):
            report.reference = float_reference(report.float_model.gm, judged, progress)
        _compile_targets(_Job(report, data, judged, stats, golden, folder, options, watch, progress), backends)
        report.manifest = _manifest(report, backends, data, stats, folder, options, model_name)
        if finish is not None:
            finish(folder, report.manifest)
            report.manifest = report.manifest.model_copy(update={"files": list_files(folder)})
        write_manifest(folder, report.manifest)
    return report


def _best(
    model: Capturable, specs: Sequence[TargetSpec], data: Dataset, options: CompileOptions, progress: Progress
) -> tuple[CompileOptions, tuple[Attempt, ...]]:
    """What the recipe `best` finds, on the first target; any other recipe is what it is, and so is every one for a
    graph that comes quantized."""
    if options.recipe != BEST or is_quantized(getattr(model, "graph", None)):
        return options, ()
    return choose_best(model, specs[0], data, options, progress)


def _batches(data: Dataset) -> Callable[[], Iterator[tuple[Tensor, ...]]]:
    return lambda: (batch.inputs for batch in data)


def golden_inputs(data: Dataset, count: int) -> tuple[Tensor, ...]:
    """The first `count` samples, or as many as come before one of another size."""
    found: list[tuple[Tensor, ...]] = []
    for batch in data:
        if found and any(a.shape[1:] != b.shape[1:] for a, b in zip(found[0], batch.inputs, strict=True)):
            break
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
    if report.float_model.quantized is not None:
        require_no_choices(options)
        return AS_IT_CAME
    plans = plan_targets(report.float_model, [backend.spec for backend in backends.values()], options)
    with report.timed("calibrate"):
        batches = (batch.inputs for batch in data)
        return collect(report.float_model, plans, batches, options, data.count, progress)


def _write_golden(path: Path, model: FloatModel, golden: Sequence[Tensor]) -> None:
    names = [input_name(node) for node in placeholders(model.gm)]
    path.parent.mkdir()
    path.write_bytes(save(dict(zip(names, golden, strict=True))))


@dataclass(frozen=True, slots=True)
class _Job:
    """What every target of a compilation shares."""

    report: CompileReport
    data: Dataset
    judged: Dataset
    stats: CalibrationStats
    golden: Sequence[Tensor]
    folder: Path
    options: CompileOptions
    watch: PassWatch | None
    progress: Progress

    @property
    def model(self) -> FloatModel:
        assert self.report.float_model is not None
        return self.report.float_model


def _compile_targets(job: _Job, backends: Mapping[str, Backend]) -> None:
    """Results and failures into the report; raises where nothing could be compiled."""
    for name, backend in backends.items():
        try:
            job.report.results[name] = _compile_target(job, backend)
        except FxedgeError as error:
            _discard(job.folder, name)
            job.report.failures[name] = error
    if not job.report.results:
        raise _all_failed(job.report)


def _compile_target(job: _Job, backend: Backend) -> TargetResult:
    name, report, options = backend.spec.name, job.report, job.options
    lowered, relieved = _lower_target(job, backend)
    with report.timed("lower and emit"):
        artifacts = _emit(backend, lowered, job.model, job.folder, options)
        if isinstance(backend, Describes):
            lowered = dataclasses.replace(lowered, notes=(*lowered.notes, *backend.notes(artifacts.int8)))
    try:
        with report.timed("verify"), saturation_named(lowered):
            backend.emit(lowered.program, artifacts.exposed, list(lowered.program.integer_values()))
            checked = check_target(
                backend,
                lowered.program,
                artifacts,
                job.golden,
                job.judged,
                report.reference,
                parity_samples=options.parity_samples,
                timed_runs=options.timed_runs,
                threads=options.threads,
                progress=job.progress,
            )
            _write_layers(job, lowered)
            others = check_other_kernels(
                backend, lowered.program, artifacts, job.golden, checked.golden, options.threads
            )
        _write_companions(backend, lowered, artifacts.int8.parent)
        (job.folder / "golden" / f"{name}.safetensors").write_bytes(save(checked.golden))
        for kernels, other in others.items():
            (job.folder / golden_by(name, kernels)).write_bytes(save(other.golden))
    finally:
        artifacts.exposed.unlink(missing_ok=True)
    _explain(job, backend, lowered)
    size = artifacts.int8.stat().st_size
    float_size = artifacts.float.stat().st_size if artifacts.float is not None else None
    return TargetResult(lowered, checked, size, float_size, relieved, others)


def _lower_target(job: _Job, backend: Backend) -> tuple[Lowered, MaxDrop | None]:
    """The program; with a bound on the loss, that of the layers relieved so that it is kept."""
    spec, options, stats, relieved = backend.spec, job.options, job.stats, None
    if job.model.quantized is not None:
        with job.report.timed("lower and emit"):
            return lower_quantized(job.model, spec, options), None
    if options.max_drop is not None:
        with job.report.timed("max-drop"):
            relieved = within_drop(job.model, spec, options, job.data, options.max_drop, job.progress)
            options = relieved.relief.applied(options)
    with job.report.timed("lower and emit"):
        plan = plan_targets(job.model, [spec], options)[spec.name]
        if relieved is not None and relieved.relief != Relief():
            batches = (batch.inputs for batch in job.data)
            stats = collect(job.model, {spec.name: plan}, batches, options, job.data.count, job.progress)
        spent = within_budget(job.model, spec, plan, stats, options, job.progress)
        after = None if job.watch is None else job.watch.quantized_pass(spec, spent.plan)
        lowered = lower(job.model, spec, spent.plan, spent.stats, options, job.progress, after)
        return dataclasses.replace(lowered, notes=(*lowered.notes, *spent.notes())), relieved


def _write_layers(job: _Job, lowered: Lowered) -> None:
    few = few_samples(job.judged, _LAYER_SAMPLES)
    batches = (batch.inputs for batch in few)
    found = describe_layers(job.model.gm, lowered.program, lowered.plan, batches, job.progress)
    write_layers(job.folder, found)


def _explain(job: _Job, backend: Backend, lowered: Lowered) -> None:
    """Put the explanation into the report and the bundle, if one is asked for."""
    if job.watch is None:
        return
    name = backend.spec.name
    with job.report.timed("explain"):
        few = few_samples(job.watch.judged, _EXPLAINED)
        batches = (batch.inputs for batch in few)
        effects, unseen = job.watch.effects(name), job.watch.unseen
        found = explain(job.model, lowered.program, batches, effects, job.progress, unseen=unseen)
    path = job.folder / "explain" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found.to_json(), indent=2) + "\n", encoding="utf-8")
    job.report.explanations[name] = found


def _discard(folder: Path, name: str) -> None:
    """Leave nothing of a target that failed."""
    shutil.rmtree(folder / name, ignore_errors=True)
    for rest in (f"golden/{name}.safetensors", f"{LAYERS}/{name}.json", f"explain/{name}.json"):
        (folder / rest).unlink(missing_ok=True)
    for other in (folder / "golden").glob(f"{name}.*.safetensors"):
        other.unlink()


def _emit(
    backend: Backend, lowered: Lowered, model: FloatModel, folder: Path, options: CompileOptions
) -> Artifacts:
    place = folder / backend.spec.name
    place.mkdir()
    int8 = place / backend.artifact
    backend.emit(lowered.program, int8)
    float_path = place / f"float_{backend.artifact}" if options.float_artifact else None
    if float_path is not None:
        backend.emit_float(model.gm if backend.spec.float_prepared else model.plain, float_path)
    also = tuple(place / name for name in backend.spec.also)
    for path in also:
        backend.emit(lowered.program, path)
    return Artifacts(int8, float_path, folder / f".{backend.spec.name}_{backend.artifact}", also)


def _write_companions(backend: Backend, lowered: Lowered, place: Path) -> None:
    """What goes beside a checked artifact."""
    if isinstance(backend, HasCompanions):
        for name, content in backend.companions(lowered.program).items():
            (place / name).write_bytes(content)


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
        model_sha256=graph_hash(model.quantized or model.gm),
        inputs=input_entries(model),
        preprocess=data.preprocess,
        calibration=calibration_entry(stats, data),
        recipe=options.recipe,
        notes=compile_notes(report.attempts, model, options),
        passes=pass_entries(model.passes),
        float_accuracy=share_entry(report.reference.accuracy) if report.reference else None,
        golden_inputs=GOLDEN_INPUTS,
        targets={
            name: target_entry(
                backends[name], result.lowered, result.checked, options, result.max_drop, result.others
            )
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
