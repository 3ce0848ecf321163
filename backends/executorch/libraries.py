"""ExecuTorch's own imports: slow, so made when asked for, and noisy, so their warnings are named here."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

# What executorch 1.5 raises, imported or run: its resource files, its use of scripted layers and of torch's
# tree specs, and that its Python bindings may change.
_EXPECTED = (
    r"(read|open)_(text|binary) is deprecated",
    r"`torch\.jit\.\w+` is deprecated",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"invalid escape sequence",  # in torchao, where it is imported for the first time
    r"This API is experimental and subject to change without notice",
)


@contextlib.contextmanager
def expected_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        for message in _EXPECTED:
            warnings.filterwarnings("ignore", message=message)
        yield


def load(name: str) -> ModuleType:
    """The module `name` of executorch."""
    with expected_warnings():
        return import_module(name)
