"""XNNPACK's compiler inside ExecuTorch, less the passes that have nothing to do.

Every pass of it traces the whole graph anew, whether it changed anything or not, and ExecuTorch runs all 17 on
every delegate: 14 of them for nothing on MobileNetV2, a third of the time. Here each runs only where the graph has
an op that it rewrites.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from torch import fx

from . import libraries

_XNNPACK = "executorch.backends.xnnpack"
# The name that the runtime knows the delegate by.
RUNTIME = "XnnpackBackend"
# A compile specification under which XNNPACK's own `preprocess` runs one pass only, and serializes.
_SERIALIZE_ONLY = "dqlinear_partitioner"

_CONVOLUTION_1D = "aten.convolution.default 1d"
# Pass -> the ops that it rewrites. A pass that is not here always runs.
REWRITES: Mapping[str, frozenset[str]] = {
    "XNNPACKRemoveCloneOpsTransform": frozenset({"aten.clone.default", "dim_order_ops._clone_dim_order.default"}),
    "DimOrderOpsRevertPass": frozenset(
        {
            "dim_order_ops._empty_dim_order.default",
            "dim_order_ops._to_dim_order_copy.default",
            "dim_order_ops._clone_dim_order.default",
        }
    ),
    "ConvertToUpsampleBilinear2d": frozenset({"aten.index.Tensor", "aten._unsafe_index.Tensor"}),
    "ConvertToLinearPass": frozenset({"aten.addmm.default", "aten.mm.default"}),
    "PropagateCustomMetaPass": frozenset(),  # of weights that torchao packs
    "ConstPropPass": frozenset(),  # what a delegate reads are its inputs, constants too
    "ConvertToSDPAPass": frozenset({"aten.bmm.default"}),
    "FuseBatchNormPass": frozenset(
        {"aten.native_batch_norm.default", "aten._native_batch_norm_legit_no_training.default"}
    ),
    "DecomposeBatchNorm": frozenset(
        {"aten.native_batch_norm.default", "aten._native_batch_norm_legit_no_training.default"}
    ),
    "FuseActivationPass": frozenset({"aten.relu.default", "aten.hardtanh.default"}),
    "DecomposeConcatenate": frozenset({"aten.cat.default"}),
    "RemoveGetItemPass": frozenset({"aten.max_pool2d_with_indices.default", "aten.max.dim"}),
    "InsertPadQDQPass": frozenset({"aten.constant_pad_nd.default"}),
    "Conv1dUnsqueezePass": frozenset({_CONVOLUTION_1D}),
    "PReLUReshapePass": frozenset({"aten._prelu_kernel.default", "aten.prelu.default"}),
}


def pass_names(ops: Iterable[str], every_pass: Iterable[str]) -> list[str]:
    """Which of `every_pass`, in order, may change a graph of `ops` (`aten.relu.default`)."""
    found = frozenset(ops)
    return [name for name in every_pass if name not in REWRITES or REWRITES[name] & found]


@cache  # ExecuTorch finds it among the subclasses of BackendDetails, which are forgotten when nobody holds them
def compiler() -> Any:
    """A backend class of ExecuTorch that compiles for XNNPACK's runtime with the passes that are needed.

    What it made must be given to `for_the_runtime`: ExecuTorch would have the runtime look for a delegate with the
    name of this class.
    """
    details = libraries.load("executorch.exir.backend.backend_details")
    xnnpack = libraries.load(f"{_XNNPACK}.xnnpack_preprocess")

    class FxedgeXnnpack(details.BackendDetails):  # type: ignore[name-defined]
        @staticmethod
        def preprocess(edge_program: Any, compile_specs: list[Any]) -> Any:
            passed = _passed(_unchecked(edge_program))
            return xnnpack.XnnpackBackend.preprocess(passed, [xnnpack.CompileSpec(_SERIALIZE_ONLY, b"")])

    return FxedgeXnnpack


def _unchecked(program: Any) -> Any:
    """`program`, no longer held to the ops of ExecuTorch's edge dialect: XNNPACK's passes leave it."""
    exported = libraries.load("torch.export").ExportedProgram
    verifier = libraries.load("executorch.exir.verification.verifier").EXIREdgeDialectVerifier
    config = libraries.load(f"{_XNNPACK}.utils.configs").get_xnnpack_edge_compile_config()
    return exported(
        root=program.graph_module,
        graph=program.graph,
        graph_signature=program.graph_signature,
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants=program.constants,
        verifiers=[verifier(edge_compile_config=config, class_only=True)],
    )


def _passed(program: Any) -> Any:
    manager = libraries.load(f"{_XNNPACK}._passes").XNNPACKPassManager(program)
    wanted = pass_names(_op_names(program.graph), [each.__name__ for each in manager.passes])
    manager.passes = [each for each in manager.passes if each.__name__ in wanted]
    return manager.transform()


def _op_names(graph: fx.Graph) -> set[str]:
    calls = [node for node in graph.nodes if node.op == "call_function"]
    names = {str(getattr(node.target, "__name__", "")) for node in calls}
    if any(node.target.__name__ == "aten.convolution.default" and node.meta["val"].ndim == 3 for node in calls):
        names.add(_CONVOLUTION_1D)
    return names


def for_the_runtime(program: Any) -> None:
    """Have the delegates of an edge program loaded by XNNPACK's runtime."""
    lowered = libraries.load("executorch.exir.lowered_backend_module").LoweredBackendModule
    for name, module in program.graph_module.named_children():
        if isinstance(module, lowered):
            renamed = lowered(
                module.original_module,
                RUNTIME,
                module.processed_bytes,
                module.compile_specs,
                module.named_data_store_output,
            )
            renamed.meta = module.meta
            setattr(program.graph_module, name, renamed)
