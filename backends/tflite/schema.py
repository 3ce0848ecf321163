"""LiteRT's generated flatbuffer schema, imported when it is first needed: the package is an extra."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any


@cache
def schema() -> Any:
    """The module with `ModelT`, `TensorT`, `BuiltinOperator` and all the rest."""
    return import_module("ai_edge_litert.schema_py_generated")
