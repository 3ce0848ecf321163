"""Recipes: which passes run, in which order, as literal lists.

`floats` run once, on the float graph that all targets share; `integers` for each target on its quantized graph.
`fast` is what every int8 compiler does; `default` adds what is safe to leave on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...passes.canonicalize import Canonicalize
from ...passes.correct_bias import CorrectBias
from ...passes.fix_saturation import FixSaturation
from ...passes.fold_batch_norm import FoldBatchNorm
from ...passes.fuse_activation import FuseActivation
from ..ir.errors import InputError
from ..ir.passes import Pass
from .options import CompileOptions


@dataclass(frozen=True, slots=True)
class Recipe:
    """Passes on the float graph, and passes on each target's quantized graph."""

    floats: tuple[Pass, ...]
    integers: tuple[Pass, ...] = ()


def _fast(options: CompileOptions) -> Recipe:
    return Recipe(
        floats=(
            Canonicalize(),
            FoldBatchNorm(),
            FuseActivation(),
        ),
        integers=(FixSaturation(options.isa),),
    )


def _default(options: CompileOptions) -> Recipe:
    return Recipe(
        floats=(
            Canonicalize(),
            FoldBatchNorm(),
            FuseActivation(),
        ),
        integers=(FixSaturation(options.isa), CorrectBias()),
    )


RECIPES: Mapping[str, Callable[[CompileOptions], Recipe]] = {
    "fast": _fast,
    "default": _default,
}


def make_recipe(options: CompileOptions) -> Recipe:
    """The passes of `options.recipe`, set up as the other options say.

    Raises:
        InputError: no recipe has this name.
    """
    if options.recipe not in RECIPES:
        raise InputError(f"Unknown recipe {options.recipe!r}; allowed: {', '.join(RECIPES)}.")
    return RECIPES[options.recipe](options)
