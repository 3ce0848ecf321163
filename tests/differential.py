"""A model through every target in this process, each stage held against the one before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fxedge.backends import registry
from fxedge.backends.base import Backend
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.passes import evaluate, flatten_tensors, relative_error
from fxedge.compiler.pipeline.calibration import collect
from fxedge.compiler.pipeline.lower import Lowered, lower, plan_targets, prepare
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.pipeline.parity import EndToEndCount, as_integers, compare_nodes, output_qparams
from fxedge.compiler.quant.collectors import CollectorMethod
from fxedge.compiler.quant.program import Program
from fxedge.compiler.quant.simulate import simulate
from torch import Tensor, nn

Inputs = tuple[Tensor, ...]
Noise = dict[str, float]


def check_everywhere(
    model: nn.Module,
    batches: Sequence[Inputs],
    folder: Path,
    targets: Sequence[str] | None = None,
    dynamic_axes: tuple[int, ...] = (0,),
) -> Noise:
    """Compile `model` on `batches` (the first is the example) and run every batch on every target.

    Asserts that the captured and the rewritten graph equal the model, that no pass was rolled back, that every
    integer node is within its tolerance, that outputs which promise 0 LSB keep it, that the float artifact
    equals the model, that all that was planned as int8 runs as int8, and that artifacts are reproducible.

    Returns:
        For each target the root mean square of (int8 - float) over that of float less its mean, the largest
        over outputs.
    """
    options = CompileOptions(calibration=CollectorMethod.parse("minmax"), dynamic_axes=dynamic_axes)
    with torch.no_grad():
        expected = [flatten_tensors(_plain(model.eval()(*batch))) for batch in batches]
    captured = capture(model, batches[0], dynamic_axes=dynamic_axes)
    prepared = prepare(model, batches[0], options)
    assert {name: r.rolled_back for name, r in prepared.passes.items()} == dict.fromkeys(prepared.passes)
    for batch, wanted in zip(batches, expected, strict=True):
        assert relative_error(evaluate(captured, batch), wanted) <= 1e-5
        assert relative_error(evaluate(prepared.gm, batch), wanted) <= 1e-3
    backends = [backend for backend in map(registry.get, targets or registry.names()) if not backend.missing()]
    plans = plan_targets(prepared, [backend.spec for backend in backends], options)
    stats = collect(prepared, plans, batches, options)
    noise = {}
    for backend in backends:
        name = backend.spec.name
        lowered = lower(prepared, backend.spec, plans[name], stats, options)
        assert [result.rolled_back for result in lowered.passes.values()] == [None] * len(lowered.passes)
        _check_float(backend, prepared.gm, batches, expected, folder)
        noise[name] = _check_target(backend, lowered, batches, expected, folder)
    return noise


def _check_float(
    backend: Backend, gm: Any, batches: Sequence[Inputs], expected: Sequence[list[Tensor]], folder: Path
) -> None:
    path = folder / f"float_{backend.spec.name}"
    backend.emit_float(gm, path)
    runner = backend.load(path)
    for batch, wanted in zip(batches, expected, strict=True):
        found = [torch.from_numpy(value) for value in runner.run(_arrays(batch))]
        error = relative_error(found, wanted)
        assert error <= 1e-3, f"{backend.spec.name}: the float artifact is {error:.2g} off"


def _check_target(
    backend: Backend, lowered: Lowered, batches: Sequence[Inputs], expected: Sequence[list[Tensor]], folder: Path
) -> float:
    name, program = backend.spec.name, lowered.program
    exposed_names = list(program.integer_values())
    paths = [folder / f"{name}_{part}" for part in ("plain", "again", "exposed")]
    for path, names in zip(paths, ((), (), exposed_names), strict=True):
        backend.emit(program, path, names)
    assert paths[0].read_bytes() == paths[1].read_bytes(), f"{name}: two emits differ"
    assert backend.unfused(program, paths[0]) == (), name
    plain, exposed = backend.load(paths[0]), backend.load(paths[2])
    count, worst = EndToEndCount(program), 0.0
    for batch, wanted in zip(batches, expected, strict=True):
        outputs = _run(plain.run, batch)
        values = _run(exposed.run, batch)
        for left, right, qp in zip(outputs, values, output_qparams(program), strict=False):
            if qp is not None:
                left, right = as_integers(left, qp), as_integers(right, qp)
            atol = 0.0 if qp is not None else 1e-5 * float(np.abs(left).max(initial=0.0))
            message = f"{name}: exposed integers change the outputs"
            np.testing.assert_allclose(left, right, rtol=0.0, atol=atol, err_msg=message)
        integers = dict(zip(exposed_names, values[len(outputs) :], strict=True))
        broken = [node for node in compare_nodes(program, batch, integers) if node.worst > node.allowed]
        assert broken == [], f"{name}: {broken}"
        simulated = [value.numpy() for value in simulate(program, batch).outputs.values()]
        count.add(outputs, simulated)
        assert [o.shape for o in outputs] == [tuple(w.shape) for w in wanted], name
        assert [o.dtype for o in outputs] == [w.numpy().dtype for w in wanted], name
        _check_reference(name, program, batch, simulated, wanted)
        worst = max([worst, *map(_noise, outputs, wanted)])
    result = count.result()
    assert not (result.exact and result.worst_lsb), f"{name}: {result}"
    return worst


def _check_reference(
    name: str, program: Program, batch: Inputs, simulated: Sequence[np.ndarray], wanted: Sequence[Tensor]
) -> None:
    """The simulator is not farther from the quantized graph, run in float, than rounding explains."""
    for graph, found, true in zip(evaluate(program.gm, batch), simulated, wanted, strict=True):
        allowed = 0.05 + _noise(graph.numpy(), true)
        error = _noise(found, graph)
        assert error <= allowed, f"{name}: the simulator is {error:.2g} off its graph (allowed {allowed:.2g})"


def _run(run: Callable[..., list[np.ndarray]], batch: Inputs) -> list[np.ndarray]:
    """Three times: TorchScript optimizes what it runs again."""
    return [run(_arrays(batch)) for _ in range(3)][-1]


def _arrays(batch: Inputs) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in batch]


def _noise(found: np.ndarray, wanted: Tensor) -> float:
    if not wanted.is_floating_point() or wanted.numel() == 0:
        return 0.0
    reference = wanted.double()
    deviation = torch.from_numpy(found.astype(np.float64)) - reference
    spread = (reference - reference.mean()).square().mean().sqrt()
    level = reference.square().mean().sqrt()
    return float(deviation.square().mean().sqrt() / max(float(spread), 0.05 * float(level), 1e-6))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return [_plain(item) for item in value.values() if item is not None]
    return value
