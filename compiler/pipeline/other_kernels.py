"""What an artifact gives where its runtime computes by other kernels than those that its target stands for.

An instruction set has kernels of its own, or the runtime runs without its delegate (`TargetSpec.kernels`). The
golden outputs for each are the simulator's; where the runtime can be told here to use them, it is checked by them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ...backends.base import Backend, HasKernels
from ..quant.program import Program, computed_by
from .check import EXPOSED, INT8, Artifacts, arrays, check_nodes, simulated_outputs
from .parity import EndToEnd, EndToEndCount, NodeParity
from .runtime import RemoteRuntime


@dataclass(frozen=True, slots=True)
class OtherKernels:
    """On the golden inputs: `golden` are the outputs by these kernels, `apart` how far from those by the target's
    own. `nodes` and `worst` compare the runtime with the simulator, node by node and end to end, where it ran."""

    golden: dict[str, Tensor]
    apart: EndToEnd
    nodes: tuple[NodeParity, ...] = ()
    worst: EndToEnd | None = None


def check_other_kernels(
    backend: Backend,
    program: Program,
    artifacts: Artifacts,
    golden_inputs: Sequence[Tensor],
    golden: Mapping[str, Tensor],
    threads: int,
) -> dict[str, OtherKernels]:
    """Every other kernels of the target, by name; `golden` are the outputs by its own.

    Raises:
        VerificationError: an integer node is off by more than its tolerance, or the runtime failed.
    """
    selectable = backend.selectable if isinstance(backend, HasKernels) else ()
    found = {}
    for name, spec in program.spec.kernels.items():
        other = computed_by(program, spec)
        outputs = simulated_outputs(other, golden_inputs)
        apart = _difference(other, outputs, golden)
        found[name] = OtherKernels(outputs, apart)
        if name in selectable:
            nodes, worst = _run(backend, other, artifacts, golden_inputs, outputs, name, threads)
            found[name] = OtherKernels(outputs, apart, nodes, worst)
    return found


def _run(
    backend: Backend,
    program: Program,
    artifacts: Artifacts,
    inputs: Sequence[Tensor],
    golden: Mapping[str, Tensor],
    kernels: str,
    threads: int,
) -> tuple[tuple[NodeParity, ...], EndToEnd]:
    paths = {INT8: artifacts.int8, EXPOSED: artifacts.exposed}
    with RemoteRuntime(program.spec.name, paths, threads, kernels) as runtime:
        nodes = check_nodes(backend, program, runtime, inputs, threads)
        deployed = runtime.run(INT8, [tensor.numpy() for tensor in inputs])
    count = EndToEndCount(program)
    count.add(deployed, arrays(golden.values()))
    return nodes, count.result()


def _difference(program: Program, outputs: Mapping[str, Tensor], golden: Mapping[str, Tensor]) -> EndToEnd:
    count = EndToEndCount(program)
    count.add(arrays(outputs.values()), arrays(golden.values()))
    return count.result()
