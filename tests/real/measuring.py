"""Compile a network as a user would and run the artifact on the judged images, in a process of its own.

What is measured is kept as JSON, one file for each `Setting`, so that a run that was cut goes on.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from emulated.processes import HASWELL, run_elsewhere
from fxedge import CompileOptions, compile_model
from fxedge.compiler.pipeline.data import Dataset
from fxedge.compiler.pipeline.driver import CompileReport, TargetResult
from fxedge.compiler.pipeline.memory import keep_freed_memory
from fxedge.compiler.pipeline.runtime import RemoteRuntime

from .judged import JUDGED

FAST, DATA_FREE = "fast", "data-free"


@dataclass(frozen=True, slots=True)
class Setting:
    """One compilation and where it is judged. `synthetic`: calibrated without real images. `emulated`: the number
    of images that also run without VNNI; `limit`: of judged images, None for all; `timed`: of timed runs;
    `compared`: of samples of the check that every compilation makes."""

    net: str
    target: str
    recipe: str
    per_tensor: bool
    isa: str
    synthetic: bool = False
    emulated: int = 0
    limit: int | None = None
    threads: int = 2
    timed: int = 0
    compared: int = 16

    @property
    def file(self) -> str:
        """A name that tells every field."""
        weights = "tensor" if self.per_tensor else "channel"
        data = "synthetic" if self.synthetic else "images"
        judged = "all" if self.limit is None else str(self.limit)
        parts = (self.net, self.target, self.recipe, weights, self.isa, data, f"emulated{self.emulated}", judged)
        timed = (f"timed{self.timed}",) if self.timed else ()
        compared = (f"compared{self.compared}",) if self.compared != 16 else ()
        return ".".join((*parts, f"{self.threads}threads", *timed, *compared, "json"))


def kept(path: Path, compute: Callable[[], Any]) -> Any:
    """The JSON value in `path`; computed and written, as a whole or not at all, if it is not there."""
    if not path.is_file():
        value = compute()
        part = path.with_suffix(".part")
        part.write_text(json.dumps(value), encoding="utf-8")
        part.replace(path)
    return json.loads(path.read_text(encoding="utf-8"))


def in_own_process(function: Callable[..., Any], *arguments: object) -> Any:
    """`function(*arguments)` in a fresh process, so that its peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def float_answers(net: str, limit: int | None, threads: int) -> list[Any]:
    """What the PyTorch module answers on each judged image."""
    torch.set_num_threads(threads)
    judged = JUDGED[net]
    model = judged.factory()

    def run(batch: list[np.ndarray]) -> list[np.ndarray]:
        with torch.no_grad():
            return [model(*map(torch.from_numpy, batch)).numpy()]

    return _answers(net, judged.images(limit), run)


def measure(setting: Setting) -> dict[str, Any]:
    """The artifact's answers on each judged image; seconds from module to artifact, peak megabytes of the
    compiling process, the commit, and what the check found. With `emulated`, how many output values differ on the
    emulated processor."""
    keep_freed_memory()  # as the command line does
    torch.set_num_threads(setting.threads)
    judged = JUDGED[setting.net]
    options = CompileOptions(
        recipe=setting.recipe,
        per_tensor_weights=setting.per_tensor,
        isa=setting.isa,
        threads=setting.threads,
        parity_samples=setting.compared,
        golden_samples=min(4, setting.compared),
        timed_runs=setting.timed,
        dynamic_axes=judged.dynamic_axes,
    )
    with tempfile.TemporaryDirectory() as folder:
        data = judged.synthetic() if setting.synthetic else judged.calibration()
        bundle = Path(folder) / "bundle"
        report = compile_model(judged.factory(), data, [setting.target], bundle, options=options)
        found = {"seconds": _seconds(report), "peak_mb": _peak_mb(), "commit": commit(), "said": _said(report)}
        found["checked"] = _checked(report.results[setting.target])
        assert report.manifest is not None
        artifact = bundle / report.manifest.targets[setting.target].artifact
        with RemoteRuntime(setting.target, {"int8": artifact}, setting.threads) as runtime:
            found["answers"] = _answers(
                setting.net, judged.images(setting.limit), lambda batch: runtime.run("int8", batch)
            )
        if setting.emulated:
            found |= _elsewhere(setting, artifact)
    return found


def _answers(net: str, images: Dataset, run: Callable[[list[np.ndarray]], list[np.ndarray]]) -> list[Any]:
    found: list[Any] = []
    for batch in images:
        found += JUDGED[net].answers(run([tensor.numpy() for tensor in batch.inputs])[0])
    return found


def _seconds(report: CompileReport) -> float:
    """From the module to the artifact, its check left out."""
    return sum(seconds for stage, seconds in report.seconds.items() if stage not in ("verify", "explain"))


def _said(report: CompileReport) -> list[str]:
    """What a user would want to know of the passes: those that were rolled back, and what `best` chose."""
    assert report.float_model is not None
    reports = [report.float_model.passes, *(result.lowered.passes for result in report.results.values())]
    undone = [(name, result.rolled_back) for passes in reports for name, result in passes.items()]
    said = [f"{name} was rolled back: {reason}" for name, reason in undone if reason is not None]
    return said + [f"kept {attempt.option} {attempt.value}" for attempt in report.attempts if attempt.kept]


def _checked(result: TargetResult) -> dict[str, Any]:
    """Simulated against deployed, sizes, latencies and the ops left float with their reasons, as plain data."""
    checked, latency = result.checked, result.checked.latency
    return {
        "nodes": len(checked.nodes),
        "exact": sum(node.worst == 0 for node in checked.nodes),
        "worst": max((node.worst for node in checked.nodes), default=0),
        "end": dataclasses.asdict(checked.end_to_end),
        "latency": None if latency is None else dataclasses.asdict(latency),
        "size": result.size,
        "float_size": result.float_size,
        "integer_ops": len(result.lowered.plan.ops),
        "floats": [[skip.node, skip.reason] for skip in result.lowered.plan.floats],
    }


def _elsewhere(setting: Setting, artifact: Path) -> dict[str, int]:
    """The first images here and on an emulated processor without VNNI: values compared, and how many differ."""
    (images,) = next(iter(JUDGED[setting.net].images(setting.emulated))).inputs
    inputs = [images.numpy()]
    with RemoteRuntime(setting.target, {"int8": artifact}) as runtime:
        here = runtime.run("int8", inputs)
    there = run_elsewhere(setting.target, {artifact: inputs}, emulator=HASWELL)[artifact]
    pairs = list(zip(here, there, strict=True))
    differing = sum(int((left != right).sum()) for left, right in pairs)
    return {"differing": differing, "compared": sum(left.size for left, _ in pairs)}


def _peak_mb() -> float:
    """The most memory that this process ever held. `ru_maxrss` would count what its parent had held."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def commit() -> str:
    """The state of the checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
