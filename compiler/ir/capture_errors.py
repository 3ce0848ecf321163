"""Why a capture failed, in the user's terms: module path, source line, what to do.

The module path and the line come from the traceback: frames whose `self` is a submodule of the model tell where
in the model the failure happened, the deepest frame outside torch tells the line.
"""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

_TORCH = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__).parent)

# (text in the error, advice); the first that matches is given.
_ADVICE = (
    ("bias type", "Models are compiled from float32: call model.float() first, and give float32 data."),
    (
        "specializ",
        "The model only works for the example's own size on an axis that was declared dynamic. Replace the "
        "hard-coded size by x.shape[...] or -1, or capture with dynamic_axes=() (--static) for one fixed size.",
    ),
    (
        "data-dependent",
        "A Python branch or size depends on tensor values. Use torch.where or torch.cond, or take the branch out "
        "of the captured part.",
    ),
    (
        "control flow",
        "symbolic_trace cannot follow Python control flow over tensors; use tracer='export' (--tracer export).",
    ),
    ("iterat", "symbolic_trace cannot iterate over a tensor; use tracer='export' (--tracer export)."),
    ("bool", "symbolic_trace cannot branch on a tensor; use tracer='export' (--tracer export)."),
)


def explain(
    error: BaseException, model: nn.Module, tracer: str, inputs: tuple[Tensor, ...], dynamic_axes: Sequence[int]
) -> str:
    """One paragraph: what failed, in which module and line, and what to do."""
    found = _fails_when_larger(model, inputs, dynamic_axes) if "specializ" in str(error) else None
    path, line = _where(found or error, model)
    shapes = ", ".join(f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}" for tensor in inputs)
    where = f" in module {path or '(root)'}" + (f" at {line}" if line else "")
    reason = _reason(error)
    if "specializ" in str(error):
        axes = ", ".join(map(str, dynamic_axes))
        reason = f"its inputs cannot change in size on axis {axes}" + (f": {_reason(found)}" if found else "")
    return (
        f"{type(model).__name__} could not be captured with tracer={tracer!r}{where}: {reason} "
        f"(example inputs: {shapes}). {_advice(error, reason)}"
    )


def _advice(error: BaseException, reason: str) -> str:
    text = f"{type(error).__name__} {error}".lower()
    for needle, advice in _ADVICE:
        if needle in text:
            return advice
    if any(word in text for word in ("shape", "channels", "size of tensor", "missing a required argument")):
        return "Check that there is one example input for each input of the model, of the shape that it expects."
    return "Check that model(*example_inputs) runs in eval mode, then simplify the line named here."


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text.removesuffix(".")


def _fails_when_larger(
    model: nn.Module, inputs: tuple[Tensor, ...], dynamic_axes: Sequence[int]
) -> Exception | None:
    """What the model raises on inputs that are one larger on their dynamic axes; torch.export knows only that
    some line fixed a size, not which."""
    for axis in dynamic_axes:
        inputs = tuple(torch.cat([t, t.narrow(axis, 0, 1)], axis) if axis < t.ndim else t for t in inputs)
    try:
        with torch.no_grad():
            model(*inputs)
    except Exception as error:
        return error
    return None


def _where(error: BaseException, model: nn.Module) -> tuple[str, str]:
    paths = {id(module): name for name, module in model.named_modules()}
    path, line = "", ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if id(owner) in paths and isinstance(owner, nn.Module):
            path = paths[id(owner)]
        if _is_users(frame):
            file = frame.f_code.co_filename
            line = f"{Path(file).name}:{number}"
            if source := linecache.getline(file, number).strip():
                line += f" `{source}`"
    return path, line


def _is_users(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return not file.startswith((_TORCH, _HERE, "<")) and "site-packages" not in file and "/lib/python" not in file
