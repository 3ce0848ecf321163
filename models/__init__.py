"""Reference models, small and download-free, torchvision's full-size ones, and the loading of checkpoints."""

from __future__ import annotations

from . import catalog as catalog
from .checkpoints import CheckpointError, load_checkpoint, load_state
from .registry import ModelEntry, UnknownModelError, get, names, register

__all__ = [
    "CheckpointError",
    "ModelEntry",
    "UnknownModelError",
    "get",
    "load_checkpoint",
    "load_state",
    "names",
    "register",
]
