"""Whether the library of a runtime is installed, and which version."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec


def installed_version(distribution: str) -> str:
    """Its version as the manifest records it, or "not installed"."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def why_missing(distribution: str, install: str, module: str | None = None) -> str | None:
    """None where `module` (default: the distribution's own name) can be imported; else what is wrong and what to
    do. `install` is what pip is given to install it."""
    module = module or distribution
    if find_spec(module.partition(".")[0]) is None:
        return f"{distribution} is not installed; run: pip install {install}"
    try:
        import_module(module)
    except ImportError as error:
        return f"{distribution} is damaged ({error}); run: pip install --force-reinstall {distribution}"
    return None
