"""The choices of a compilation that are not the model, the data or the targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...passes.round_weights import Method as RoundingMethod
from ..ir.capture import Tracer
from ..quant.collectors import CollectorMethod
from ..quant.isa import SAFE
from ..quant.layer_options import LayerOptions
from ..quant.weight_range import WeightRange


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """`keep_float`, the weight options and `layers` as in `plan_quantization`, `dynamic_axes` as in `capture`.
    `calibration`, `rounding` of weights, and `split_ratio`, the share of channels that `split_outliers` may add,
    are None for what the recipe has; so is `float_budget`, the share of the multiplications that may run in float
    where integers would ruin the outputs (see `float_budget.py`).

    `golden_samples` is the number of calibration samples kept in the bundle as test vectors; `parity_samples`
    the number of samples on which simulated and deployed are compared end to end (of the evaluation data where
    there is some, else of the calibration data), None for all. `timed_runs` 0 leaves latency out. `isa` is the
    instruction set that the artifact must be exact on, as in `choose_isa`.
    `max_drop` bounds the held-out loss (see `max_drop.py`); `explain` measures where the loss comes from.
    """

    calibration: CollectorMethod | None = None
    recipe: str = "default"
    keep_float: tuple[str, ...] = ()
    per_tensor_weights: bool = False
    weight_bits: int = 8
    weight_range: WeightRange = "minmax"
    isa: str = SAFE
    layers: Mapping[str, LayerOptions] = field(default_factory=dict)
    split_ratio: float | None = None
    rounding: RoundingMethod | None = None
    float_budget: float | None = None
    tracer: Tracer = "export"
    dynamic_axes: tuple[int, ...] = (0,)
    float_artifact: bool = True
    golden_samples: int = 4
    parity_samples: int | None = 64
    timed_runs: int = 20
    threads: int = 1
    max_drop: float | None = None
    explain: bool = False
