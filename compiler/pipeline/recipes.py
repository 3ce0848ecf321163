"""Recipes: which float passes run, in which order, as literal lists."""

from __future__ import annotations

from collections.abc import Mapping

from ...passes.canonicalize import Canonicalize
from ...passes.fold_batch_norm import FoldBatchNorm
from ...passes.fuse_activation import FuseActivation
from ..ir.passes import Pass

RECIPES: Mapping[str, tuple[Pass, ...]] = {
    "default": (
        Canonicalize(),
        FoldBatchNorm(),
        FuseActivation(),
    ),
}
