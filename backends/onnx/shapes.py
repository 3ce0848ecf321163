"""Static shapes of graph nodes; see `compiler.ir.sizes`."""

from __future__ import annotations

from ...compiler.ir.sizes import ShapeUnknown, Size, complete, dtype, fake, shape

__all__ = ["ShapeUnknown", "Size", "complete", "dtype", "fake", "shape"]
