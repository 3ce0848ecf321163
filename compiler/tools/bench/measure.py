"""Artifacts timed against each other: each in a process of its own, all of them by turns.

A round gives every artifact one turn, in an order drawn anew, so that a slow moment of the machine hits all of
them and none always runs first. A turn is two runs, of which the second counts: the first brings the artifact back
into the caches and lets the threads of the one before come to rest.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ....backends.base import InputFact
from ...ir.errors import InputError, VerificationError
from ...ir.progress import Progress
from ...pipeline.runtime import RemoteRuntime
from .energy import EnergyMeter
from .figures import median

# Rounds that run even where the seconds are over: an interval needs as many.
FEWEST_ROUNDS = 6

_WARMUP = 3
_RELOADS = 3
# How long an artifact runs by itself for its energy: RAPL counts in steps of a millisecond.
_ENERGY_SECONDS = 0.5

Fit = Callable[[Sequence[InputFact] | None], tuple[list[np.ndarray], tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class Contestant:
    """An artifact, the target whose runtime runs it, and what makes its inputs from what it says that it takes.
    `foreign`: it is somebody else's, so that what it does not do is wrong input."""

    name: str
    target: str
    path: Path
    fit: Fit
    foreign: bool = False


@dataclass(slots=True)
class Measured:
    """What one contestant gave; units as in `ResultEntry`, `joules` a run."""

    adapted: tuple[str, ...]
    cold_start: float
    first_load: float
    seconds: list[float] = field(default_factory=list)
    load: float = 0.0
    memory: tuple[int | None, int | None] = (None, None)
    joules: float | None = None


def measure(
    contestants: Sequence[Contestant],
    *,
    threads: int,
    runs: int,
    seconds: float,
    meter: EnergyMeter | None,
    label: str,
    progress: Progress,
) -> dict[str, Measured]:
    """Time the contestants by turns for `runs` rounds, or about `seconds` seconds if those are over earlier.

    Raises:
        VerificationError: an artifact does not load or run.
        InputError: a foreign one does not, or takes other inputs.
    """
    with ExitStack() as stack:
        runtimes: dict[str, RemoteRuntime] = {}
        found: dict[str, Measured] = {}
        with progress.track(f"start {label}", len(contestants)) as advance:
            for done, one in enumerate(contestants):
                try:
                    runtimes[one.name], found[one.name] = _start(stack, one, threads)
                except VerificationError as error:
                    if one.foreign:
                        raise InputError(f"--against {one.path}: {error}") from error
                    raise
                advance(done + 1)
        with progress.track(f"time {label}", runs) as advance:
            _take_turns(runtimes, found, runs, seconds, advance)
        with progress.track(f"load {label} again", len(contestants)) as advance:
            for done, one in enumerate(contestants):
                _finish(runtimes[one.name], one, found[one.name], meter)
                advance(done + 1)
    return found


def _start(stack: ExitStack, one: Contestant, threads: int) -> tuple[RemoteRuntime, Measured]:
    """From the start of the process to the first answer, then a few runs that do not count."""
    start = time.perf_counter()
    runtime = stack.enter_context(RemoteRuntime(one.target, {}, threads))
    first_load = runtime.load(one.name, one.path)
    inputs, adapted = one.fit(runtime.inputs(one.name))
    runtime.run(one.name, inputs)
    cold_start = time.perf_counter() - start
    runtime.hold(inputs)
    runtime.time([one.name], repeats=0, warmup=_WARMUP)
    return runtime, Measured(adapted, cold_start, first_load)


def _take_turns(
    runtimes: dict[str, RemoteRuntime],
    found: dict[str, Measured],
    runs: int,
    seconds: float,
    advance: Callable[[int], None],
) -> None:
    names, shuffle = list(runtimes), random.Random(0).shuffle
    end = time.perf_counter() + seconds
    for done in range(runs):
        if done >= FEWEST_ROUNDS and time.perf_counter() > end:
            return
        shuffle(names)
        for name in names:
            found[name].seconds += runtimes[name].time([name], repeats=1, warmup=1)[name]
        advance(done + 1)


def _finish(runtime: RemoteRuntime, one: Contestant, found: Measured, meter: EnergyMeter | None) -> None:
    """Memory before the model is there twice; energy by itself, since the counters know no processes."""
    found.memory = runtime.memory()
    if meter is not None:
        runs = math.ceil(_ENERGY_SECONDS / median(found.seconds))
        before = meter.read()
        runtime.time([one.name], repeats=runs, warmup=0)
        found.joules = meter.joules(before, meter.read()) / runs
    found.load = median([runtime.load(one.name, one.path) for _ in range(_RELOADS)])
