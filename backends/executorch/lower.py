"""A flat aten graph -> a `.pte` program, through torch.export and ExecuTorch's XNNPACK partitioner.

What the partitioner left to portable kernels is written into the program, as text behind the method `DELEGATION`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.export import Dim, ExportedProgram

from ...compiler.ir.errors import UnsupportedOpsError
from ...compiler.ir.nodes import placeholders
from . import libraries
from .delegation import explain, recording
from .partition import partitioner
from .xnn_compiler import for_the_runtime

# The most samples that one run takes, and the largest size of any other dynamic axis: ExecuTorch plans memory for
# the largest.
MOST_SAMPLES = 8
LONGEST = 512

DELEGATION = "fxedge_delegation"


def pte_bytes(graph: fx.GraphModule) -> bytes:
    """The program of a flat graph.

    Raises:
        UnsupportedOpsError: every op that neither XNNPACK nor a portable kernel of the runtime takes.
    """
    exir = libraries.load("executorch.exir")
    config = exir.EdgeCompileConfig(_check_ir_validity=False)
    with libraries.expected_warnings(), recording() as reasons:
        edge = _lowered(graph, exir, config)
    for_the_runtime(edge.exported_program())
    left = explain(edge.exported_program().graph, reasons)
    if left.refused:
        raise UnsupportedOpsError("executorch", left.refused)
    planning = exir.passes.MemoryPlanningPass(alloc_graph_input=False, alloc_graph_output=False)
    with libraries.expected_warnings():
        edge = exir.EdgeProgramManager({"forward": edge.exported_program()}, {DELEGATION: left.lines()}, config)
        made = edge.to_executorch(exir.ExecutorchBackendConfig(memory_planning_pass=planning))
    return bytes(made.buffer)


def _lowered(graph: fx.GraphModule, exir: Any, config: Any) -> Any:
    """ExecuTorch's edge program. Its passes fail on some graphs with exceptions of any kind."""
    try:
        program = exported(graph)
        return exir.to_edge_transform_and_lower(program, partitioner=[partitioner()], compile_config=config)
    except Exception as error:
        first = next(iter(str(error.__cause__ or error).splitlines()), "")
        reason = f"they end with {type(error).__name__}: {first}"
        raise UnsupportedOpsError("executorch", [("the graph", "ExecuTorch's own passes", reason)]) from error


def exported(graph: fx.GraphModule) -> ExportedProgram:
    """`graph` as an exported program, its dynamic axes bounded."""
    metas = [node.meta["val"] for node in placeholders(graph)]
    inputs, shapes = tuple(map(_example, metas)), tuple(map(_dynamic, metas))
    with torch.no_grad(), libraries.expected_warnings():
        return torch.export.export(graph, inputs, dynamic_shapes=shapes, strict=False)


def _example(meta: Tensor) -> Tensor:
    sizes = [size if isinstance(size, int) else int(size.node.hint) for size in meta.shape]
    return torch.zeros(sizes, dtype=meta.dtype)


def _dynamic(meta: Tensor) -> dict[int, Any]:
    return {
        axis: Dim.DYNAMIC(min=1, max=LONGEST if axis else MOST_SAMPLES)
        for axis, size in enumerate(meta.shape)
        if not isinstance(size, int)
    }
