"""Capture: a PyTorch model in any of its forms -> one FX graph of aten calls (stage FLOAT).

Accepted: an `nn.Module` (through `torch.export`, or `torch.fx.symbolic_trace` first), an `fx.GraphModule`, a
`torch.export.ExportedProgram`, or the path of a `.pt2` file. All end in the same graph: aten overloads, one
`get_attr` node for each constant, in-place ops made functional, the batch axis dynamic, module paths and source
lines kept for reports. The model given is not changed, and its weights are shared, not copied.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import operator
import sys
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from .capture_errors import explain
from .constants import constants, first_not_finite, set_constant
from .errors import CaptureError, VerifierError
from .functionalize import has_alias_risk, make_functional
from .ops import OPS
from .stages import Stage, verify

Tracer = Literal["export", "symbolic"]
Capturable = nn.Module | ExportedProgram | str | Path


def capture(
    model: Capturable,
    example_inputs: Sequence[Tensor],
    *,
    tracer: Tracer = "export",
    dynamic_axes: Sequence[int] = (0,),
) -> fx.GraphModule:
    """Capture `model` as an aten graph in stage FLOAT.

    `example_inputs` are the positional inputs, batch on axis 0. `dynamic_axes` are the axes of every input whose
    size may change later: `(0,)` the batch, `(0, 1)` batch and sequence length, `()` none. An example whose
    dynamic axis has size 1 is repeated to 2, because `torch.export` treats a size of 1 as fixed.
    A `.pt2` file is code: torch's loader unpickles and evaluates it.

    Raises:
        CaptureError: names the module path and the source line that could not be followed and what to do.
    """
    _check_call(example_inputs, tracer)
    inputs = _distinct([_widened(tensor, dynamic_axes) for tensor in example_inputs])
    if isinstance(model, (str, Path)):
        program = load_pt2(Path(model))
        gm = _from_program(program)
    elif isinstance(model, ExportedProgram):
        gm = _from_program(model)
    elif isinstance(model, fx.GraphModule) and _is_captured(model):
        gm = _from_graph(model, _output_structure(model))
    elif isinstance(model, nn.Module):
        gm = _from_program(_export(model, inputs, tracer, dynamic_axes))
    else:
        raise CaptureError(
            f"Cannot capture an object of type {type(model).__name__}; allowed: an nn.Module, an fx.GraphModule, "
            "an ExportedProgram, or the path of a .pt2 file."
        )
    _check(gm)
    return gm


def _check_call(example_inputs: object, tracer: str) -> None:
    if tracer not in get_args(Tracer):
        raise CaptureError(f"There is no tracer {tracer!r}; allowed: {', '.join(get_args(Tracer))}.")
    if isinstance(example_inputs, Tensor):
        raise CaptureError("The example inputs are one tensor; give a tuple of them, one for each input: (x,).")


def input_names(model: nn.Module | ExportedProgram) -> tuple[str, ...]:
    """Names of the inputs that `model` needs, in order: the parameters of `forward` without a default."""
    if isinstance(model, ExportedProgram):
        return tuple(model.graph_signature.user_inputs)
    if isinstance(model, fx.GraphModule):
        return tuple(str(node.target) for node in model.graph.nodes if node.op == "placeholder")
    parameters = inspect.signature(model.forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(p.name for p in parameters if p.kind in positional and p.default is inspect.Parameter.empty)


def _export(
    model: nn.Module, inputs: tuple[Tensor, ...], tracer: Tracer, dynamic_axes: Sequence[int]
) -> ExportedProgram:
    with _eval_mode(model):
        printed = io.StringIO()
        try:
            with contextlib.redirect_stderr(printed):  # torch prints the half-made graph of a failed export
                traced = fx.symbolic_trace(model) if tracer == "symbolic" else model
                shapes = _dynamic_shapes(traced, inputs, dynamic_axes)
                program = torch.export.export(traced, inputs, dynamic_shapes=shapes, strict=False)
        except Exception as error:
            raise CaptureError(explain(error, model, tracer, inputs, dynamic_axes)) from error
    sys.stderr.write(printed.getvalue())
    return program


def _dynamic_shapes(model: nn.Module, inputs: tuple[Tensor, ...], axes: Sequence[int]) -> tuple[Any, ...]:
    """One entry for each argument of `forward`; `*args` take theirs nested."""
    shapes = tuple({axis: Dim.DYNAMIC for axis in axes if axis < tensor.ndim} or None for tensor in inputs)
    parameters = inspect.signature(model.forward).parameters.values()
    named = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return (*shapes[:named], shapes[named:])
    return shapes


def _widened(tensor: Tensor, axes: Sequence[int]) -> Tensor:
    for axis in axes:
        if axis < tensor.ndim and tensor.shape[axis] == 1:
            tensor = torch.cat([tensor, tensor], dim=axis)
    return tensor


def _distinct(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The tensors, copied where one is given twice: `torch.export` would take equal objects for one input."""
    seen: set[int] = set()
    distinct = []
    for tensor in tensors:
        distinct.append(tensor.clone() if id(tensor) in seen else tensor)
        seen.add(id(tensor))
    return tuple(distinct)


@contextlib.contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode for the time of the capture; each module gets its own flag back."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def load_pt2(path: Path) -> ExportedProgram:
    """The program in a `.pt2` file. This runs code: torch's loader unpickles and evaluates what the file holds."""
    if not path.is_file():
        raise CaptureError(f"{path} does not exist; give the path of a .pt2 file made by torch.export.save.")
    cause: Exception | None = None
    if zipfile.is_zipfile(path):  # else torch logs a traceback on its way to the same end
        try:
            return torch.export.load(path)
        except Exception as error:
            cause = error
    raise CaptureError(
        f"{path} is not a readable .pt2 file: it is damaged, it was not made by torch.export.save, or a torch "
        f"newer than this one ({torch.__version__}) made it."
    ) from cause


def _from_program(program: ExportedProgram) -> fx.GraphModule:
    gm = program.module(check_guards=False)
    assert isinstance(gm, fx.GraphModule)
    if has_alias_risk(gm.graph):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own, about its tree specs
            program = program.run_decompositions({})
        gm = program.module(check_guards=False)
        assert isinstance(gm, fx.GraphModule)
    return _from_graph(gm, program.call_spec.out_spec)


def _output_structure(gm: fx.GraphModule) -> pytree.TreeSpec | None:
    info = getattr(gm.graph._codegen, "pytree_info", None)
    return info.out_spec if info is not None else None


_NO_EFFECT = frozenset(
    {torch.ops.aten._assert_tensor_metadata.default, torch.ops.aten._assert_scalar.default}
    | {torch.ops.aten.sym_constrain_range_for_size.default, torch.ops.aten.sym_constrain_range.default}
)
_KEPT_META = ("nn_module_stack", "stack_trace", "val")


def _from_graph(source: fx.GraphModule, out_spec: pytree.TreeSpec | None) -> fx.GraphModule:
    """A fresh graph with plain inputs and structured outputs, each constant read by one node."""
    graph, values, by_tensor = fx.Graph(), {}, {}
    tensors: dict[str, Tensor] = {}
    for node in source.graph.nodes:
        if node.op == "get_attr":
            name, tensor = str(node.target), _attribute(source, str(node.target))
            key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.storage_offset())
            if tensor.numel() == 0 or key not in by_tensor:
                by_tensor[key] = graph.get_attr(name)
                tensors[name] = tensor
            values[node] = by_tensor[key]
        elif node.op == "output":
            graph.output(_structured(fx.map_arg(node.args[0], values.__getitem__), out_spec))
        elif node.op == "call_module" or node.target in _NO_EFFECT:
            continue
        else:
            values[node] = graph.node_copy(node, values.__getitem__)
            values[node].meta = {key: node.meta[key] for key in _KEPT_META if key in node.meta}
    root = nn.Module()
    gm = fx.GraphModule(root, fx.Graph())
    for name, tensor in tensors.items():
        set_constant(gm, name, tensor)
    gm.graph = graph
    make_functional(graph)
    graph.eliminate_dead_code()
    gm.recompile()
    return gm


def _attribute(source: nn.Module, name: str) -> Tensor:
    value: Any = operator.attrgetter(name)(source)
    if not isinstance(value, Tensor):
        raise CaptureError(f"The graph reads {name!r}, a {type(value).__name__}; only tensors are allowed.")
    return value


def _structured(outputs: Any, out_spec: pytree.TreeSpec | None) -> Any:
    """The output as the model gave it: a tensor, a tuple, or a dict; dataclasses and mappings become dicts."""
    if out_spec is not None:
        outputs = pytree.tree_unflatten(list(outputs), out_spec)
    return _plain(outputs)


def _plain(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {key: _plain(item) for key, item in fields.items() if item is not None}
    if isinstance(value, (tuple, list)):
        return tuple(_plain(item) for item in value if item is not None)
    raise CaptureError(
        f"The model returns {value!r}, of type {type(value).__name__}; allowed: tensors, tuples, lists and dicts."
    )


def _is_captured(gm: fx.GraphModule) -> bool:
    """Whether a GraphModule is calls of aten overloads already, with the shapes that an export recorded."""
    for node in gm.graph.nodes:
        if node.op in ("placeholder", "call_function") and "val" not in node.meta:
            return False
        if node.op in ("call_module", "call_method"):
            return False
    return any(isinstance(node.target, OpOverload) for node in gm.graph.nodes)


def _check(gm: fx.GraphModule) -> None:
    for name, tensor in constants(gm).items():
        if (where := first_not_finite(tensor)) is not None:
            raise CaptureError(
                f"The weight {name} holds {tensor[where].item()} at index {list(where)}; "
                "weights must be finite. Check the checkpoint that they come from."
            )
    _check_weight_types(gm)
    try:
        verify(gm, Stage.QUANTIZED if _has_quantize(gm) else Stage.FLOAT)
    except VerifierError as error:
        raise CaptureError(f"The captured graph cannot be compiled: {error}") from error


def _check_weight_types(gm: fx.GraphModule) -> None:
    """Export does not see that such a weight and a float32 input do not go together; the first run would."""
    for node in gm.graph.nodes:
        info = OPS.get(node.target)
        weight = None if info is None else node.args[info.weight]
        if not isinstance(weight, fx.Node) or weight.op != "get_attr":
            continue
        dtype = constants(gm)[str(weight.target)].dtype
        if dtype.is_floating_point and dtype != torch.float32:
            raise CaptureError(
                f"The weight {weight.target} is {str(dtype).removeprefix('torch.')}, but models are compiled from "
                "float32. Call model.float() first."
            )


def _has_quantize(gm: fx.GraphModule) -> bool:
    from .qops import DEQUANTIZE, QUANTIZE

    return any(node.target in QUANTIZE or node.target in DEQUANTIZE for node in gm.graph.nodes)
