"""Recipes: which passes run, in which order, as literal lists.

`floats` run once, on the float graph that all targets share; `integers` for each target on its quantized graph.

* `fast`: what every int8 compiler does.
* `default`: adds what is safe to leave on, in about twice the time.
* `data-free`: the same on synthetic images, for models that come without data.
* `best`: adds what takes minutes, and keeps of it what helps on held-out samples (see `best.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...passes.canonicalize import Canonicalize
from ...passes.correct_bias import CorrectBias
from ...passes.equalize_activations import EqualizeActivations
from ...passes.equalize_layers import EqualizeLayers
from ...passes.fix_saturation import FixSaturation
from ...passes.fold_batch_norm import FoldBatchNorm
from ...passes.fold_dead_channels import FoldDeadChannels
from ...passes.fuse_activation import FuseActivation
from ...passes.join_ranges import JoinRanges
from ...passes.round_weights import RoundWeights
from ...passes.smooth_activations import SmoothActivations
from ...passes.split_outliers import SplitOutliers
from ...passes.split_ranges import SplitRanges
from ..ir.errors import InputError
from ..ir.passes import Pass
from ..quant.collectors import CollectorMethod
from ..quant.layer_options import LayerOptions
from .options import CompileOptions

PERCENTILE, NOISE, MINMAX = CollectorMethod("percentile"), CollectorMethod("noise"), CollectorMethod("minmax")
FAST, DATA_FREE, BEST = "fast", "data-free", "best"

# Noise at the outputs below which ranges are not split, by whether a weight has one scale: what activations leave
# above it the float budget makes up for; what weights leave, nothing does.
_SPLIT_FLOORS = {False: 0.01, True: 0.001}


@dataclass(frozen=True, slots=True)
class Recipe:
    """Passes on the float graph (`plain`, what any float runtime does too, then `floats`), passes on each target's
    quantized graph, and how ranges are chosen and what may stay float (see `float_budget.py`) where the options do
    not say."""

    floats: tuple[Pass, ...]
    integers: tuple[Pass, ...] = ()
    plain: tuple[Pass, ...] = (Canonicalize(), FoldBatchNorm(), FuseActivation())
    calibration: CollectorMethod = PERCENTILE
    float_budget: float = 0.0
    float_goal: float = 20.0  # dB of signal over the noise of rounding at which nothing more is spent


def _fast(options: CompileOptions) -> Recipe:
    return Recipe(
        floats=(),
        integers=(FixSaturation(options.isa),),
    )


def _default(options: CompileOptions) -> Recipe:
    equalizing: dict[str, Any] = {
        "per_tensor_weights": options.per_tensor_weights,
        "weight_bits": options.weight_bits,
        "layers": {**dict.fromkeys(options.keep_float, LayerOptions(quantize=False)), **options.layers},
    }
    return Recipe(
        floats=(
            FoldDeadChannels(),
            SmoothActivations(norms_only=True),
            EqualizeLayers(**equalizing, clamp="pinned"),
            EqualizeActivations(**equalizing),
            SplitRanges(options.per_tensor_weights, floor=_SPLIT_FLOORS[options.per_tensor_weights]),
            SplitOutliers(**_splitting(options, 0.0)),
        ),
        integers=(
            FixSaturation(options.isa),
            RoundWeights(options.rounding or "gptq"),
            FixSaturation(options.isa, rescale=False),
            CorrectBias(),
            JoinRanges(),
        ),
        calibration=NOISE,
        float_budget=0.1,
    )


def _data_free(options: CompileOptions) -> Recipe:
    return dataclasses.replace(_default(options), calibration=MINMAX, float_budget=0.0)


def _splitting(options: CompileOptions, ratio: float) -> dict[str, Any]:
    """What `SplitOutliers` must know of the plan; `ratio` where the options do not give one."""
    usual = LayerOptions(
        weight_bits=options.weight_bits,
        per_tensor=options.per_tensor_weights,
        weight_range=options.weight_range,
    )
    return {
        "ratio": ratio if options.split_ratio is None else options.split_ratio,
        "usual": usual,
        "layers": options.layers,
        "keep_float": options.keep_float,
    }


def _best(options: CompileOptions) -> Recipe:
    return dataclasses.replace(_default(options), float_budget=0.2, float_goal=30.0)


RECIPES: Mapping[str, Callable[[CompileOptions], Recipe]] = {
    FAST: _fast,
    "default": _default,
    BEST: _best,
    DATA_FREE: _data_free,
}


def make_recipe(options: CompileOptions) -> Recipe:
    """The passes of `options.recipe`, set up as the other options say.

    Raises:
        InputError: no recipe has this name.
    """
    if options.recipe not in RECIPES:
        raise InputError(f"Unknown recipe {options.recipe!r}; allowed: {', '.join(RECIPES)}.")
    return RECIPES[options.recipe](options)
