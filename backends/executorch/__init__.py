"""`.pte` programs for ExecuTorch, through XNNPACK."""

from .backend import backend

__all__ = ["backend"]
