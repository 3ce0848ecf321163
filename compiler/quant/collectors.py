"""Streaming collectors: what calibration remembers of an edge, and the range it gives for quantizing it.

Every method sees each element once, and keeps a state of fixed size however many samples there are:

    minmax                  16 bytes (and the element count); exact
    moving_average[:C]      16 bytes; exponential average of each batch's minimum and maximum, C its weight
    percentile[:P]          a histogram (16 KiB); the smallest range holding P % of the elements
    mse                     a histogram; the range with the smallest expected squared quantization error
    entropy                 a histogram; the range with the smallest Kullback-Leibler divergence
    noise                   that of mse; `range_search.py` goes on from it with the graph at hand

A range never reaches beyond the observed minimum and maximum, and does not always contain zero:
`choose_qparams` extends it. Only that of `moving_average` depends on the order and the batches of the data.

Sources: the average is that of torch's `MovingAverageMinMaxObserver` (weight 0.01, started at the first
batch). The percentile is cut half from each side, as in onnxruntime's calibrator. Entropy is Szymon Migacz,
*8-bit Inference with TensorRT* (GTC 2017); what is added to it is said at `entropy_range`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from ..ir.errors import CalibrationError, InputError
from .histogram import Histogram
from .qparams import QSpec, choose_channel_qparams, quantize

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)

# What an empty bin of the quantized form counts where the reference has data.
_LEAST_COUNT = 1e-4


@dataclass(frozen=True, slots=True)
class _Parameter:
    default: float
    above: float
    below: float


_METHODS: dict[str, _Parameter | None] = {
    "minmax": None,
    "moving_average": _Parameter(0.01, above=0, below=1),
    "percentile": _Parameter(99.99, above=50, below=100),
    "mse": None,
    "entropy": None,
    "noise": None,
}


@dataclass(frozen=True, slots=True)
class CollectorMethod:
    """How ranges are found: a name and, for two of them, one number (its default where left out).

    Raises:
        InputError: an unknown name, a number where none is taken, or one out of bounds.
    """

    name: str
    parameter: float | None = None

    def __post_init__(self) -> None:
        takes = _METHODS.get(self.name)
        if takes and self.parameter is None:
            object.__setattr__(self, "parameter", takes.default)
        valid = self.name in _METHODS and (
            takes.above < self.parameter < takes.below
            if takes and self.parameter is not None
            else self.parameter is None
        )
        if not valid:
            raise _unknown_method(str(self))

    @classmethod
    def parse(cls, text: str) -> CollectorMethod:
        """The method written as `name` or `name:number`, the form that `str` gives back."""
        name, colon, number = text.partition(":")
        try:
            return cls(name, float(number) if colon else None)
        except ValueError:
            raise _unknown_method(text) from None

    def __str__(self) -> str:
        return self.name if self.parameter is None else f"{self.name}:{self.parameter}"


def _unknown_method(text: str) -> InputError:
    allowed = [
        f"{name}[:N] with {takes.above} < N < {takes.below} ({takes.default} if left out)" if takes else name
        for name, takes in _METHODS.items()
    ]
    return InputError(f"there is no calibration method '{text}'; allowed: {', '.join(allowed)}")


class Collector(Protocol):
    """What one edge remembers of the data that went through it."""

    seen: int

    def observe(self, x: Tensor) -> None:
        """Take in one tensor of one batch: float32, float16 or bfloat16, any shape; an empty one is ignored.

        Raises:
            CalibrationError: another dtype, NaN or inf. The message does not know the edge's name: the
                caller adds it. The state is then as before the call.
        """

    def range(self, spec: QSpec) -> tuple[float, float]:
        """(low, high), finite, low <= high: what to give to `choose_qparams` with the same `spec`.

        Raises:
            CalibrationError: nothing was seen.
        """


def make_collector(method: CollectorMethod) -> Collector:
    """An empty collector."""
    match method:
        case CollectorMethod("minmax"):
            return MinMax()
        case CollectorMethod("moving_average", float(weight)):
            return MovingAverage(weight)
        case CollectorMethod("percentile", float(percent)):
            return HistogramCollector(partial(percentile_range, percent=percent))
        case CollectorMethod("mse" | "noise"):
            return HistogramCollector(mse_range)
        case _:
            return HistogramCollector(entropy_range)


class MinMax:
    """The smallest and largest value. Reads the data once, and does nothing else."""

    def __init__(self) -> None:
        self.seen = 0
        self._low, self._high = math.inf, -math.inf

    def observe(self, x: Tensor) -> None:
        if x.numel():
            low, high = _bounds(_flat(x), self.seen)
            self._low, self._high = min(self._low, low), max(self._high, high)
            self.seen += x.numel()

    def range(self, spec: QSpec) -> tuple[float, float]:
        _check_seen(self.seen)
        return self._low, self._high


class MovingAverage:
    """`value += weight * (batch's value - value)` for the minimum and maximum; the first batch starts it."""

    def __init__(self, weight: float) -> None:
        self.seen = 0
        self._weight = weight
        self._low, self._high = 0.0, 0.0

    def observe(self, x: Tensor) -> None:
        if x.numel():
            low, high = _bounds(_flat(x), self.seen)
            weight = self._weight if self.seen else 1.0
            self._low += weight * (low - self._low)
            self._high += weight * (high - self._high)
            self.seen += x.numel()

    def range(self, spec: QSpec) -> tuple[float, float]:
        _check_seen(self.seen)
        return self._low, self._high


class HistogramCollector:
    """Counts into a histogram, of which `search` picks the range."""

    def __init__(self, search: Callable[[Histogram, QSpec], tuple[float, float]]) -> None:
        self.seen = 0
        self.histogram = Histogram()
        self._search = search

    def observe(self, x: Tensor) -> None:
        if x.numel():
            values = _flat(x)
            self.histogram.add(values, *_bounds(values, self.seen))
            self.seen += x.numel()

    def range(self, spec: QSpec) -> tuple[float, float]:
        _check_seen(self.seen)
        low, high = self._search(self.histogram, spec)
        return max(low, self.histogram.low) + 0.0, min(high, self.histogram.high) + 0.0


def _flat(x: Tensor) -> Tensor:
    """All elements on one axis, in the order of memory: no copy of a channels-last or transposed tensor."""
    if x.is_contiguous():
        return x.detach().view(-1)
    return x.detach().permute(sorted(range(x.ndim), key=x.stride, reverse=True)).reshape(-1)


def _bounds(values: Tensor, seen: int) -> tuple[float, float]:
    if values.dtype not in _FLOATS:
        allowed = ", ".join(str(dtype) for dtype in _FLOATS)
        raise CalibrationError(f"saw values of type {values.dtype}; allowed: {allowed}")
    smallest, largest = torch.aminmax(values)
    low, high = smallest.item() + 0.0, largest.item() + 0.0  # -0.0 becomes 0.0
    if not (math.isfinite(low) and math.isfinite(high)):
        found = "NaN" if math.isnan(low) else "inf" if high == math.inf else "-inf"
        raise CalibrationError(f"saw {found} in a tensor of {len(values)} elements, after {seen} finite ones")
    return low, high


def _check_seen(seen: int) -> None:
    if not seen:
        raise CalibrationError("saw no data, so there is no range; calibrate with at least one sample")


def percentile_range(histogram: Histogram, spec: QSpec, percent: float) -> tuple[float, float]:
    """The bins that hold at least `percent` of the elements: at most one bin wider, each side, than exact.

    Data of both signs lose half of the rest on each side. Data of one sign (after ReLU) lose all of it on
    the far side, and keep their zero.
    """
    cut = int(histogram.counts.sum()) * (100 - percent) / 100
    both = histogram.low < 0 < histogram.high
    low, high = histogram.low, histogram.high
    edges = histogram.counts[: histogram.used]
    if low < 0:
        outside = edges.cumsum(0) <= (cut / 2 if both else cut)
        low = (histogram.first + int(outside.sum())) * histogram.width
    if high > 0:
        outside = edges.flip(0).cumsum(0) <= (cut / 2 if both else cut)
        high = (histogram.first + histogram.used - int(outside.sum())) * histogram.width
    return low, high


def mse_range(histogram: Histogram, spec: QSpec) -> tuple[float, float]:
    """The range whose quantization by `spec` has the smallest mean squared error, elements spread over bins.

    The root of that error differs from the elements' own by at most a bin width over the root of 3. A
    candidate clips at a fraction of the observed minimum and another of the maximum (for data of one sign or
    a symmetric `spec`: at one fraction of the larger magnitude). The full range is one of them; the best is
    refined between its neighbours, three times.
    """
    one_fraction = spec.symmetric or not histogram.low < 0 < histogram.high
    coarse, fine = (48, 6) if one_fraction else (12, 3)
    tried, step = 1 - torch.arange(coarse, dtype=torch.float64) / coarse, 1 / coarse
    best, least = torch.zeros(2, dtype=torch.float64), math.inf
    for _ in range(4):
        pairs = (best + _pairs(tried, one_fraction)).clamp(1 / len(histogram.counts), 1)
        errors = _squared_errors(histogram, *_clip(histogram, pairs, one_fraction), spec)
        at = int(errors.argmin())
        if errors[at] < least:
            best, least = pairs[at], errors[at].item()
        step /= fine
        tried = torch.arange(-fine, fine + 1, dtype=torch.float64) * step
    low, high = _clip(histogram, best[None], one_fraction)
    return low.item(), high.item()


def _pairs(values: Tensor, equal: bool) -> Tensor:
    """float64 [candidates, 2]: each value twice, or all pairs."""
    return values[:, None].expand(-1, 2) if equal else torch.cartesian_prod(values, values)


def _clip(histogram: Histogram, fractions: Tensor, one_fraction: bool) -> tuple[Tensor, Tensor]:
    """(lows, highs), float64 [candidates], within the observed range."""
    low, high = histogram.low, histogram.high
    reach = max(-low, high)
    below, above = (reach, reach) if one_fraction else (-low, high)
    return (fractions[:, 0] * -below).clamp(low, high), (fractions[:, 1] * above).clamp(low, high)


def _squared_errors(histogram: Histogram, lows: Tensor, highs: Tensor, spec: QSpec) -> Tensor:
    """float64 [candidates]: the mean squared error of quantizing by `spec` with each range.

    The error of u = x / scale is u - q, q its integer; its square's integral is q / 12 + (u - q)^3 / 3,
    continuous where q changes and true where q is clamped, so the difference of two edges is a bin's exactly.
    """
    edges, counts = histogram.edges(), histogram.counts[: histogram.used]
    qp = choose_channel_qparams(lows, highs, spec, axis=0)
    scale = qp.scale_tensor().double()[:, None]
    integer = quantize(edges.float().expand(len(lows), -1), qp) - qp.zero_point_tensor()[:, None]
    off = edges / scale - integer
    integral = integer / 12 + off**3 / 3
    width = edges.diff() / scale
    mean = torch.where(width > 0, integral.diff() / width, off[:, :-1] ** 2)
    return (mean @ (counts / counts.sum()).double()) * scale[:, 0] ** 2


def entropy_range(histogram: Histogram, spec: QSpec) -> tuple[float, float]:
    """The clipping with the smallest Kullback-Leibler divergence of the data and their quantized form.

    The reference is the histogram within the clip, with what lies outside added to its end bins. The
    quantized form spreads each integer's share of the kept counts evenly over its bins that are not empty
    (Migacz 2017). Beyond the source, which knows symmetric int8 of magnitudes:

    * Integers cover the range that `spec` gives them: the clipped data's own for an affine `spec` (so all
      256 after ReLU, not 128), [-t, t] for a symmetric one.
    * Data of both signs are clipped at one magnitude t on both sides; the shorter tail may lie within.
    * Zero is exact in every range, so a spike of zeros says nothing: its bin counts no more than the next.
    * An outlier in a bin whose integer has no other data meets a 1e-4th of a count (as in onnxruntime and
      MXNet), not zero, which would make the divergence infinite.

    Clips are tried at 128 magnitudes, then at each bin between the best one's neighbours.
    """
    if histogram.low == histogram.high:
        return histogram.low, histogram.high
    counts = _without_zero_spike(histogram)
    widest = max(-histogram.first, histogram.first + len(counts))
    stride = -(-widest // 128)
    best = _least_divergent(histogram.first, counts, torch.arange(widest, 0, -stride), spec)
    if best is None:
        return histogram.low, histogram.high
    fine = torch.arange(min(best + stride, widest), max(best - stride, 0), -1)
    best = _least_divergent(histogram.first, counts, fine, spec) or best
    return -best * histogram.width, best * histogram.width


def _without_zero_spike(histogram: Histogram) -> Tensor:
    """float64: the counts in use, those of exact zeros left out as far as the neighbouring bin tells."""
    counts = histogram.counts[: histogram.used].double()
    zero = -histogram.first
    if histogram.high <= 0:
        return counts[:zero]
    if zero + 1 < len(counts):
        counts[zero] = min(counts[zero], counts[zero + 1])
    return counts


def _least_divergent(first: int, counts: Tensor, magnitudes: Tensor, spec: QSpec) -> int | None:
    """The magnitude, in bins, of least divergence (the first of equals).

    None if at each of them an integer is narrower than a bin, or nothing but zeros was counted.
    """
    start, end = magnitudes.neg().clamp(min=first), magnitudes.clamp(max=first + len(counts))
    levels = spec.qmax - spec.qmin + 1
    grid_start, grid_end = (-magnitudes, magnitudes) if spec.symmetric else (start, end)
    wide = grid_end - grid_start >= levels
    if not wide.any() or not counts.any():
        return None
    start, end, grid_start, grid_end = (side[wide, None] for side in (start, end, grid_start, grid_end))
    bins = torch.arange(first, first + len(counts))
    kept = torch.where((bins >= start) & (bins < end), counts, 0.0)
    integer = ((bins - grid_start) * levels // (grid_end - grid_start)).clamp(0, levels - 1)
    reference = _fold_tails(kept, counts, start - first, end - first)
    return int(magnitudes[wide][_divergence(reference, kept, integer, levels).argmin()])


def _fold_tails(kept: Tensor, counts: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """`kept` [clips, bins] plus, in its first and last bin, the counts outside [start, end)."""
    below = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    folded = kept.scatter_add(1, start, below[start])
    return folded.scatter_add(1, end - 1, below[-1] - below[end])


def _divergence(reference: Tensor, kept: Tensor, integer: Tensor, levels: int) -> Tensor:
    """float64 [clips]: KL(reference || quantized); inf for a clip that keeps nothing."""
    filled = reference > 0
    zeros = kept.new_zeros(len(kept), levels)
    share = zeros.scatter_add(1, integer, kept) / zeros.scatter_add(1, integer, filled.double())
    quantized = torch.where(filled, share.gather(1, integer).clamp(min=_LEAST_COUNT), 0.0)
    p = reference / reference.sum(1, keepdim=True)
    q = quantized / quantized.sum(1, keepdim=True)
    divergence = torch.where(filled, p * (p / q).log(), 0.0).sum(1)
    return divergence.where(kept.sum(1) > 0, math.inf)
