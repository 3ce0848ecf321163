"""Target name -> backend, imported only when it is asked for."""

from __future__ import annotations

import difflib
from importlib import import_module

from ..compiler.ir.errors import InputError
from .base import Backend

_WHERE = {
    "fbgemm": "fxedge.backends.fbgemm:backend",
    "x86": "fxedge.backends.x86:backend",
    "onednn": "fxedge.backends.onednn:backend",
    "qnnpack": "fxedge.backends.qnnpack:backend",
    "onnx": "fxedge.backends.onnx:backend",
    "tensorrt": "fxedge.backends.tensorrt:backend",
    "openvino": "fxedge.backends.openvino:backend",
    "tflite": "fxedge.backends.tflite:backend",
    "executorch": "fxedge.backends.executorch:backend",
}


def names() -> tuple[str, ...]:
    """Every target, in the order in which tables list them."""
    return tuple(_WHERE)


def get(name: str) -> Backend:
    """The backend of a target.

    Raises:
        InputError: no target has this name; says which there are.
    """
    if name not in _WHERE:
        close = difflib.get_close_matches(name, _WHERE, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise InputError(f"Unknown target {name!r}; allowed: {', '.join(_WHERE)}, all.{hint}")
    module, attribute = _WHERE[name].split(":")
    found: Backend = getattr(import_module(module), attribute)
    return found
