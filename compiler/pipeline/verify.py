"""`fxedge verify`: a bundle re-checked here: hashes first, then every artifact against its golden outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from ...backends.base import Backend, HasKernels
from ..ir.errors import InputError, VerificationError
from ..ir.progress import Progress, Silent
from ..quant.isa import native_isa, native_kernels
from .bundle import read_bundle, read_golden, read_golden_inputs
from .check import INT8
from .driver import usable_backends
from .manifest import KernelsEntry, Manifest, OutputEntry, TargetEntry
from .parity import relative_difference
from .runtime import RemoteRuntime


@dataclass(frozen=True, slots=True)
class TargetVerdict:
    """One target: `passed`, or why not; `skipped` where its runtime is not installed."""

    passed: bool
    message: str
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class VerifyReport:
    manifest: Manifest
    verdicts: dict[str, TargetVerdict]

    @property
    def passed(self) -> bool:
        """At least one artifact was run and none failed."""
        ran = [verdict for verdict in self.verdicts.values() if not verdict.skipped]
        return bool(ran) and all(verdict.passed for verdict in ran)


def verify_bundle(
    bundle: str | Path, *, targets: tuple[str, ...] = (), threads: int = 1, progress: Progress | None = None
) -> VerifyReport:
    """Check hashes, then run each artifact (of `targets`, default all) on the golden inputs.

    Raises:
        BundleError: the bundle is damaged. InputError: it has no such target.
        A runtime's disagreement is no error but a verdict.
    """
    folder = Path(bundle)
    manifest = read_bundle(folder)
    unknown = [name for name in targets if name not in manifest.targets]
    if unknown:
        raise InputError(f"{folder} has no target {unknown[0]!r}; it has {', '.join(manifest.targets)}.")
    names = targets or tuple(manifest.targets)
    backends, missing = usable_backends(names)
    verdicts: dict[str, TargetVerdict] = {}
    with (progress or Silent()).track("verify", len(names)) as advance:
        for done, name in enumerate(names):
            if name in backends:
                verdicts[name] = _verify_target(folder, manifest, name, backends[name], threads)
            else:
                verdicts[name] = TargetVerdict(False, str(missing[name]), skipped=True)
            advance(done + 1)
    return VerifyReport(manifest, verdicts)


def _verify_target(folder: Path, manifest: Manifest, name: str, backend: Backend, threads: int) -> TargetVerdict:
    """By the kernels of this machine, then by those that the runtime can be told to use."""
    entry = manifest.targets[name]
    verdict = _verify_kernels(folder, manifest, name, entry.kernels.get(native_kernels(), entry), None, threads)
    selectable = backend.selectable if isinstance(backend, HasKernels) else ()
    for kernels in selectable:
        if verdict.passed and kernels in entry.kernels:
            other = _verify_kernels(folder, manifest, name, entry.kernels[kernels], kernels, threads)
            if not other.passed:
                return TargetVerdict(False, f"by the {kernels} kernels: {other.message}")
    if verdict.passed:
        return verdict
    return TargetVerdict(False, f"{verdict.message}{_elsewhere(entry, backend)}")


def _elsewhere(entry: TargetEntry, backend: Backend) -> str:
    """Why an artifact that was compiled for another instruction set may give other integers here."""
    found, native = entry.saturation, native_isa()
    if found is None or found.isa == native or backend.spec.saturation.get(native) is None:
        return ""
    return f"; it was compiled for {found.isa}, and here ({native}) sums may saturate that do not saturate there"


def _verify_kernels(
    folder: Path,
    manifest: Manifest,
    name: str,
    owed: TargetEntry | KernelsEntry,
    kernels: str | None,
    threads: int,
) -> TargetVerdict:
    entry = manifest.targets[name]
    inputs = read_golden_inputs(folder, manifest)
    golden = read_golden(folder, manifest, owed.golden, [output.name for output in entry.outputs])
    forms = {INT8: folder / entry.artifact} | {PurePosixPath(form).name: folder / form for form in entry.also}
    try:
        with RemoteRuntime(name, forms, threads, kernels) as runtime:
            arrays = [inputs[tensor.name] for tensor in manifest.inputs]
            verdicts = {form: _judge(entry, owed, runtime.run(form, arrays), golden) for form in forms}
    except VerificationError as error:
        return TargetVerdict(False, str(error))
    for form, verdict in verdicts.items():
        if form != INT8 and not verdict.passed:
            return TargetVerdict(False, f"{form}: {verdict.message}")
    return verdicts[INT8]


def _judge(
    entry: TargetEntry,
    owed: TargetEntry | KernelsEntry,
    outputs: Sequence[np.ndarray],
    golden: Mapping[str, np.ndarray],
) -> TargetVerdict:
    if len(outputs) != len(entry.outputs):
        return TargetVerdict(False, f"it gives {len(outputs)} output(s), not the manifest's {len(entry.outputs)}")
    worst = [
        _difference(output, deployed, golden[output.name], owed)
        for output, deployed in zip(entry.outputs, outputs, strict=True)
    ]
    failed = [text for within, text in worst if not within]
    return TargetVerdict(not failed, "; ".join(failed or [text for _, text in worst]))


def _difference(
    output: OutputEntry, deployed: np.ndarray, golden: np.ndarray, owed: TargetEntry | KernelsEntry
) -> tuple[bool, str]:
    if deployed.shape != golden.shape:
        return False, f"{output.name} has shape {list(deployed.shape)}, not {list(golden.shape)}"
    if output.scale is not None:
        off = np.abs(deployed.astype(np.float64) - golden.astype(np.float64)).max(initial=0.0)
        lsb = float(np.rint(off / output.scale))
        text = f"{output.name} is {lsb:.0f} LSB from the golden outputs (allowed {owed.tolerance_lsb})"
        return lsb <= owed.tolerance_lsb, text
    relative = relative_difference(deployed, golden)
    text = f"{output.name} is {relative:.2g} of its magnitude from the golden outputs (allowed "
    return relative <= owed.tolerance_float, f"{text}{owed.tolerance_float:.2g})"
