"""`fxedge bench --calibrate-machine`: what kernels cost here, float and int8, in every installed runtime.

Each kernel is compiled as a user's model would be (captured, planned, calibrated on its one input, lowered,
emitted), once alone and once in a row of several; float and int8 of both run by turns in one process per target.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.console import Console
from torch import Tensor

from .... import __version__
from ....backends import registry
from ....backends.base import Backend
from ...ir.errors import BackendUnavailableError, FxedgeError
from ...ir.progress import Progress
from ...pipeline.calibration import collect
from ...pipeline.driver import usable_backends
from ...pipeline.kernel_costs import Form, KernelCosts, KernelPoint, KernelTables, TargetTable
from ...pipeline.lower import lower, plan_targets, prepare
from ...pipeline.machine import describe_machine
from ...pipeline.options import CompileOptions
from ...pipeline.runtime import RemoteRuntime
from ...quant.collectors import CollectorMethod
from ..tables import make_table, print_table
from .figures import median_interval
from .kernels import KERNELS, Kernel

# Lengths of the two chains.
_SHORT, _LONG = 1, 5
_FORMS: tuple[Form, ...] = ("float", "int8")
_OPTIONS = CompileOptions(recipe="fast", calibration=CollectorMethod("minmax"), dynamic_axes=())
_WARMUP = 3


@dataclass(slots=True)
class _Found:
    """Points and reasons of one target, by kind and form."""

    points: dict[tuple[str, Form], list[KernelPoint]] = field(default_factory=dict)
    reasons: dict[tuple[str, Form], str] = field(default_factory=dict)


def calibrate_machine(
    targets: Sequence[str],
    *,
    threads: Sequence[int],
    runs: int,
    progress: Progress,
    kernels: Sequence[Kernel] = KERNELS,
) -> KernelTables:
    """Measure `kernels` in the runtimes of `targets` (default: all installed ones), for each of `threads`.

    Raises:
        InputError: no such target. BackendUnavailableError: none of them can be measured here.
    """
    machine = describe_machine()
    backends = _measurable(targets)
    tables = [table for count in threads for table in _measure(backends, count, runs, kernels, progress)]
    return KernelTables(
        fxedge=__version__,
        taken=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine,
        tables=tuple(tables),
    )


def _measure(
    backends: Mapping[str, Backend], threads: int, runs: int, kernels: Sequence[Kernel], progress: Progress
) -> Iterator[TargetTable]:
    found = {name: _Found() for name in backends}
    with tempfile.TemporaryDirectory(prefix="fxedge-kernels-") as place, ExitStack() as stack:
        runtimes = {name: stack.enter_context(RemoteRuntime(name, {}, threads)) for name in backends}
        with progress.track(f"measure kernels, {threads} thread(s)", len(kernels)) as advance:
            for done, kernel in enumerate(kernels):
                _measure_kernel(kernel, backends, runtimes, Path(place), runs, found)
                advance(done + 1)
    for name, backend in backends.items():
        costs = tuple(_costs(kernels, found[name]))
        yield TargetTable(target=name, threads=threads, versions=dict(backend.versions()), kernels=costs)


def _measurable(targets: Sequence[str]) -> dict[str, Backend]:
    usable, missing = usable_backends(targets or registry.names())
    own = {name: backend for name, backend in usable.items() if backend.spec.own_runtime}
    if not own:
        reasons = " ".join(map(str, missing.values())) or "What runs them here only stands in for their runtimes."
        raise BackendUnavailableError(f"No target can be calibrated here. {reasons}")
    return own


def _measure_kernel(
    kernel: Kernel,
    backends: Mapping[str, Backend],
    runtimes: Mapping[str, RemoteRuntime],
    place: Path,
    runs: int,
    found: Mapping[str, _Found],
) -> None:
    """Emit both chains for every target, then time them target by target."""
    emitters = {length: _compile(kernel, length, backends) for length in (_SHORT, _LONG)}
    for name, backend in backends.items():
        forms: list[Form] = []
        for form in _FORMS:
            try:
                for length, emit in emitters.items():
                    path = place / f"{form}-{length}-{name}{Path(backend.artifact).suffix}"
                    emit(backend, form, path)
                    runtimes[name].load(f"{form}-{length}", path)
                forms.append(form)
            except FxedgeError as error:
                found[name].reasons.setdefault((kernel.kind, form), str(error))
        try:
            points = _time(kernel, runtimes[name], forms, runs)
        except FxedgeError as error:
            found[name].reasons.update({(kernel.kind, form): str(error) for form in forms})
            continue
        for form, point in points.items():
            found[name].points.setdefault((kernel.kind, form), []).append(point)


_Emit = Callable[[Backend, Form, Path], None]


def _compile(kernel: Kernel, length: int, backends: Mapping[str, Backend]) -> _Emit:
    """What writes a chain's artifact for a target, or raises where the target has no int8 kernel for it."""
    example = kernel.example()
    batch: list[tuple[Tensor, ...]] = [(example,)]
    model = prepare(kernel.net(length).eval(), (example,), _OPTIONS)
    plans = plan_targets(model, [backend.spec for backend in backends.values()], _OPTIONS)
    stats = collect(model, plans, batch, _OPTIONS)

    def emit(backend: Backend, form: Form, path: Path) -> None:
        if form == "float":
            backend.emit_float(model.gm, path)
            return
        plan = plans[backend.spec.name]
        if plan.floats:
            raise BackendUnavailableError(plan.floats[0].reason)
        backend.emit(lower(model, backend.spec, plan, stats, _OPTIONS).program, path)

    return emit


def _time(kernel: Kernel, runtime: RemoteRuntime, forms: Sequence[Form], runs: int) -> dict[Form, KernelPoint]:
    keys = [f"{form}-{length}" for form in forms for length in (_SHORT, _LONG)]
    if not keys:
        return {}
    seconds = runtime.time(keys, [kernel.example().numpy()], repeats=runs, warmup=_WARMUP)
    return {form: _point(kernel, seconds[f"{form}-{_SHORT}"], seconds[f"{form}-{_LONG}"]) for form in forms}


def _point(kernel: Kernel, short: Sequence[float], long: Sequence[float]) -> KernelPoint:
    """As `kernel_costs` says; the rest only where nothing but the kernel is in the chain."""
    each = (np.asarray(long) - np.asarray(short)) / (_LONG - _SHORT)
    _, low, high = median_interval(each.tolist())
    seconds = max((min(long) - min(short)) / (_LONG - _SHORT), 0.0)
    return KernelPoint(
        work=kernel.work,
        elements=kernel.elements,
        seconds=seconds,
        low=low,
        high=high,
        rest=None if kernel.anchored else max(min(short) - _SHORT * seconds, 0.0),
    )


def print_costs(console: Console, tables: KernelTables) -> None:
    """Each kind at its largest size, float against int8, and what a target has no int8 kernel for."""
    table = make_table("target", "threads", "kernel", "work", "float us", "int8 us", "float / int8")
    for one in tables.tables:
        for kind in dict.fromkeys(costs.kind for costs in one.kernels):
            table.add_row(one.target, str(one.threads), kind, *_cost_cells(one, kind))
    print_table(console, table)


def _cost_cells(table: TargetTable, kind: str) -> tuple[str, str, str, str]:
    last = {form: costs.points[-1] for form in _FORMS if (costs := table.costs(kind, form)) and costs.points}
    if not last:
        return "-", "-", "-", "-"
    any_form = next(iter(last.values()))
    costs = table.costs(kind, "float")
    work = f"{any_form.work} {costs.unit if costs else ''}"
    cells = [f"{1e6 * last[form].seconds:.1f}" if form in last else "-" for form in _FORMS]
    both = len(last) == len(_FORMS) and last["int8"].seconds > 0
    return work, cells[0], cells[1], f"{last['float'].seconds / last['int8'].seconds:.2f}×" if both else "-"


def _costs(kernels: Sequence[Kernel], found: _Found) -> Iterator[KernelCosts]:
    units = {kernel.kind: kernel.unit for kernel in kernels}
    for kind, unit in units.items():
        for form in _FORMS:
            points = sorted(found.points.get((kind, form), ()), key=lambda point: point.work)
            reason = None if points else found.reasons.get((kind, form))
            yield KernelCosts(kind=kind, form=form, unit=unit, points=tuple(points), reason=reason)
