import math
import pickle

import numpy as np
import pytest
import torch
from fxedge.compiler.ir.errors import CalibrationError, InputError
from fxedge.compiler.quant.collectors import (
    Collector,
    CollectorMethod,
    HistogramCollector,
    entropy_range,
    make_collector,
    mse_range,
)
from fxedge.compiler.quant.histogram import Histogram
from fxedge.compiler.quant.qparams import QSpec, choose_qparams, dequantize, quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

METHODS = ["minmax", "moving_average", "percentile", "mse", "entropy"]
HISTOGRAM_METHODS = METHODS[2:]
AFFINE = QSpec(0, 255, torch.uint8)
SYMMETRIC = QSpec(-127, 127, torch.int8, symmetric=True)
SPECS = [AFFINE, SYMMETRIC]
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
VALUES = st.lists(FLOATS, min_size=1, max_size=12)


def collect(method: str, *batches: Tensor) -> Collector:
    collector = make_collector(CollectorMethod.parse(method))
    for batch in batches:
        collector.observe(batch)
    return collector


def histogram_collector(method: str, x: Tensor) -> HistogramCollector:
    collector = collect(method, x)
    assert isinstance(collector, HistogramCollector)
    return collector


def rms_error(x: Tensor, bounds: tuple[float, float], spec: QSpec) -> float:
    qp = choose_qparams(*bounds, spec)
    return (dequantize(quantize(x, qp), qp) - x).double().square().mean().sqrt().item()


def spread_rms_error(histogram: Histogram, bounds: tuple[float, float], spec: QSpec) -> float:
    """The error of each bin's elements spread evenly over it, at 64 points."""
    edges, points = histogram.edges(), (torch.arange(64) + 0.5) / 64
    x = (edges[:-1, None] + edges.diff()[:, None] * points).float()
    qp = choose_qparams(*bounds, spec)
    squared = (dequantize(quantize(x, qp), qp) - x).double().square().mean(1)
    counts = histogram.counts[: histogram.used].double()
    return math.sqrt(squared @ counts / counts.sum())


def laplace(n: int, seed: int = 0) -> Tensor:
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(seed)) - 0.5
    return -uniform.sign() * (1 - 2 * uniform.abs()).clamp(min=1e-6).log()


SHAPES = {
    "relu": laplace(5_000).relu(),
    "below zero": -laplace(5_000).relu(),
    "both signs": laplace(5_000),
    "lopsided": torch.nn.functional.silu(3 * laplace(5_000)),
    "far from zero": 100 + laplace(5_000),
    "outlier": torch.cat([laplace(5_000), torch.tensor([200.0])]),
    "clipped": (3 * laplace(5_000)).clamp(0, 6),
    "few": torch.tensor([0.1, 0.7, -0.3]),
}


class TestMethod:
    @pytest.mark.parametrize(
        ("text", "name", "parameter"),
        [
            ("minmax", "minmax", None),
            ("mse", "mse", None),
            ("entropy", "entropy", None),
            ("moving_average", "moving_average", 0.01),
            ("moving_average:0.1", "moving_average", 0.1),
            ("percentile", "percentile", 99.99),
            ("percentile:99.9", "percentile", 99.9),
        ],
    )
    def test_parses(self, text: str, name: str, parameter: float | None):
        method = CollectorMethod.parse(text)
        assert method == CollectorMethod(name, parameter)
        assert (method.name, method.parameter) == (name, parameter)
        assert CollectorMethod.parse(str(method)) == method

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "max",
            "MinMax",
            "minmax:1.0",
            "percentile:",
            "percentile:all",
            "percentile:100.0",
            "percentile:nan",
            "moving_average:0.0",
            "moving_average:1.0",
        ],
    )
    def test_refuses(self, text: str):
        with pytest.raises(InputError) as caught:
            CollectorMethod.parse(text)
        assert str(caught.value) == (
            f"there is no calibration method '{text}'; allowed: minmax, "
            "moving_average[:N] with 0 < N < 1 (0.01 if left out), "
            "percentile[:N] with 50 < N < 100 (99.99 if left out), mse, entropy, noise"
        )


@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    @settings(max_examples=25, deadline=None)
    @given(st.lists(VALUES, min_size=1, max_size=3), st.sampled_from(SPECS))
    def test_ranges_are_finite_and_within_the_data(self, method, batches, spec):
        collector = collect(method, *map(torch.tensor, batches))
        everything = [value for batch in batches for value in batch]
        low, high = collector.range(spec)
        assert min(everything) <= low <= high <= max(everything)
        assert collector.seen == len(everything)
        assert choose_qparams(low, high, spec).scale[0] > 0

    @pytest.mark.parametrize("spec", SPECS)
    @pytest.mark.parametrize("value", [5.0, -0.25, 0.0, 1e-38])
    def test_a_constant_is_its_own_range(self, method: str, value: float, spec: QSpec):
        expected = torch.tensor(value).item()
        assert collect(method, torch.full((2, 3), value)).range(spec) == (expected, expected)

    def test_negative_zero_is_zero(self, method: str):
        _, high = collect(method, torch.tensor([-1.0, -0.0])).range(AFFINE)
        assert math.copysign(1, high) == 1

    @pytest.mark.parametrize("spec", SPECS)
    @pytest.mark.parametrize("name", SHAPES)
    def test_ranges_keep_most_of_the_data(self, method: str, name: str, spec: QSpec):
        x = SHAPES[name]
        low, high = collect(method, x).range(spec)
        slack = 0.1 * (high - low)
        assert ((x >= low - slack) & (x <= high + slack)).double().mean() > 0.95

    @pytest.mark.parametrize("spec", SPECS)
    def test_is_deterministic(self, method: str, spec: QSpec):
        for x in SHAPES.values():
            assert collect(method, x).range(spec) == collect(method, x.clone()).range(spec)

    def test_memory_layout_does_not_matter(self, method: str):
        x = SHAPES["both signs"][:360].reshape(2, 5, 6, 6)
        expected = collect(method, x).range(AFFINE)
        for same in (
            x.to(memory_format=torch.channels_last),
            x.transpose(1, 3),
            x.repeat_interleave(2, dim=1)[:, ::2],
            x.clone().requires_grad_(),
        ):
            assert collect(method, same).range(AFFINE) == expected

    def test_a_scalar_and_an_expanded_tensor(self, method: str):
        collector = collect(method, torch.tensor(2.0), torch.tensor([2.0]).expand(3, 4))
        assert (collector.seen, collector.range(AFFINE)) == (13, (2.0, 2.0))

    def test_empty_is_ignored(self, method: str):
        collector = collect(method, torch.empty(0, 3), torch.tensor([1.0]), torch.empty(0))
        assert (collector.seen, collector.range(AFFINE)) == (1, (1.0, 1.0))

    def test_no_data(self, method: str):
        with pytest.raises(CalibrationError) as caught:
            collect(method, torch.empty(0)).range(AFFINE)
        assert str(caught.value) == "saw no data, so there is no range; calibrate with at least one sample"

    @pytest.mark.parametrize(("value", "name"), [(math.nan, "NaN"), (math.inf, "inf"), (-math.inf, "-inf")])
    def test_not_finite(self, method: str, value: float, name: str):
        collector = collect(method, torch.tensor([-1.0, 1.0]))
        before = pickle.dumps(collector)
        bad = torch.zeros(3, 50)
        bad[1, 17] = value
        with pytest.raises(CalibrationError) as caught:
            collector.observe(bad)
        assert str(caught.value) == f"saw {name} in a tensor of 150 elements, after 2 finite ones"
        assert pickle.dumps(collector) == before

    @pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.bool])
    def test_other_dtypes(self, method: str, dtype: torch.dtype):
        with pytest.raises(CalibrationError) as caught:
            collect(method, torch.ones(3, dtype=dtype))
        assert str(caught.value) == (
            f"saw values of type {dtype}; allowed: torch.float32, torch.float16, torch.bfloat16"
        )

    def test_memory_is_bounded(self, method: str):
        collector = collect(method, *(10.0**i * SHAPES["both signs"] for i in range(-4, 5)))
        assert len(pickle.dumps(collector)) < (18 * 1024 if method in HISTOGRAM_METHODS else 512)


@settings(max_examples=25, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=4), st.randoms(use_true_random=False))
@pytest.mark.parametrize("method", [method for method in METHODS if method != "moving_average"])
def test_order_and_batches_do_not_matter(method: str, batches: list[list[float]], random):
    everything = [value for batch in batches for value in batch]
    shuffled = torch.tensor(random.sample(everything, len(everything)))
    for spec in SPECS:
        assert collect(method, *map(torch.tensor, batches)).range(spec) == collect(method, shuffled).range(spec)


@settings(max_examples=25, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=4))
def test_minmax_is_exact(batches: list[list[float]]):
    everything = np.concatenate([np.asarray(batch, np.float32) for batch in batches])
    assert collect("minmax", *map(torch.tensor, batches)).range(AFFINE) == (
        everything.min(),
        everything.max(),
    )


def test_moving_average_starts_at_the_first_batch():
    batches = torch.tensor([[-1.0, 1.0], [-3.0, 2.0], [0.0, 5.0]])
    low, high = collect("moving_average:0.25", *batches).range(AFFINE)
    assert (low, high) == (0.75 * (0.75 * -1 + 0.25 * -3), 0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * 5)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("percent", [60, 99, 99.9, 99.99])
class TestPercentile:
    def test_holds_the_mass_within_one_bin(self, name: str, percent: float):
        x = SHAPES[name]
        collector = histogram_collector(f"percentile:{percent}", x)
        low, high = collector.range(AFFINE)
        assert ((x >= low) & (x <= high)).double().mean() >= percent / 100 - 1e-12

        lost = len(x) * (100 - percent) / 100
        below, above = _sides(x, lost)
        width = collector.histogram.width
        ordered = x.sort().values.tolist()
        assert ordered[below] - width <= low <= ordered[below]
        assert ordered[-1 - above] <= high <= ordered[-1 - above] + width

    def test_does_not_depend_on_the_spec(self, name: str, percent: float):
        collector = collect(f"percentile:{percent}", SHAPES[name])
        assert collector.range(AFFINE) == collector.range(SYMMETRIC)


def _sides(x: Tensor, lost: float) -> tuple[int, int]:
    """How many elements may lie below and above the range."""
    if x.min() < 0 < x.max():
        return int(lost / 2 + 1e-9), int(lost / 2 + 1e-9)
    return (0, int(lost + 1e-9)) if x.max() > 0 else (int(lost + 1e-9), 0)


@pytest.mark.parametrize("spec", SPECS)
class TestMse:
    @pytest.mark.parametrize("name", SHAPES)
    def test_is_close_to_the_best_of_all_clips(self, name: str, spec: QSpec):
        x = SHAPES[name]
        collector = histogram_collector("mse", x)
        found = rms_error(x, collector.range(spec), spec)
        low, high = x.min().item(), x.max().item()
        fractions = [i / 12 for i in range(1, 13)]
        best = min(
            rms_error(x, (max(low, a * low), min(high, b * high)), spec) for a in fractions for b in fractions
        )
        assert found <= 1.01 * best

    @settings(max_examples=25, deadline=None)
    @given(values=st.lists(st.floats(-(2.0**60), 2.0**60, width=32), min_size=1, max_size=30))
    def test_is_never_worse_than_minmax_on_the_histogram(self, values: list[float], spec: QSpec):
        histogram = histogram_collector("mse", torch.tensor(values)).histogram
        found = spread_rms_error(histogram, mse_range(histogram, spec), spec)
        assert found <= 1.01 * spread_rms_error(histogram, (histogram.low, histogram.high), spec)

    @pytest.mark.parametrize("name", SHAPES)
    def test_the_histogram_knows_the_error_to_a_bin(self, name: str, spec: QSpec):
        collector = histogram_collector("mse", SHAPES[name])
        bounds = collector.range(spec)
        off = abs(rms_error(SHAPES[name], bounds, spec) - spread_rms_error(collector.histogram, bounds, spec))
        assert off <= collector.histogram.width / math.sqrt(3)

    def test_clips_deep_where_integers_are_narrower_than_bins(self, spec: QSpec):
        histogram = histogram_collector("mse", SHAPES["both signs"]).histogram
        histogram.counts *= 10**9
        histogram.add(torch.tensor([-300.0, 300.0]), -300.0, 300.0)
        best = min(spread_rms_error(histogram, (-t, t), spec) for t in range(5, 301))
        assert spread_rms_error(histogram, mse_range(histogram, spec), spec) <= 1.02 * best

    def test_clips_an_outlier_and_keeps_a_wall(self, spec: QSpec):
        bulk = torch.tensor([8.0, -8.0]).repeat(50_000)
        assert collect("mse", bulk + laplace(100_000), torch.tensor([100.0])).range(spec)[1] < 90
        assert collect("mse", SHAPES["clipped"]).range(spec) == (0.0, pytest.approx(6, rel=1e-3))


@pytest.mark.parametrize("spec", SPECS)
class TestEntropy:
    @pytest.mark.parametrize("name", ["relu", "both signs", "lopsided", "outlier", "clipped"])
    def test_has_the_least_divergence_of_the_clips_tried(self, name: str, spec: QSpec):
        histogram = histogram_collector("entropy", SHAPES[name]).histogram
        found = max(map(abs, entropy_range(histogram, spec))) / histogram.width
        counts = histogram.counts[: histogram.used].double().numpy()
        zero = -histogram.first
        counts[zero] = min(counts[zero], counts[zero + 1])
        widest = max(zero, len(counts) - zero)
        tried = range(widest, 0, -math.ceil(widest / 128))
        least = min(_divergence(counts, histogram.first, t, spec) for t in tried)
        assert _divergence(counts, histogram.first, int(found), spec) <= least * (1 + 1e-9)

    def test_zeros_do_not_matter(self, spec: QSpec):
        relu = SHAPES["relu"]
        padded = torch.cat([relu, torch.zeros(len(relu))])
        assert collect("entropy", padded).range(spec) == collect("entropy", relu).range(spec)

    def test_clips_an_outlier_and_keeps_a_wall(self, spec: QSpec):
        assert collect("entropy", SHAPES["outlier"]).range(spec)[1] < 100
        assert collect("entropy", SHAPES["clipped"]).range(spec) == (0.0, 6.0)


def test_entropy_of_negative_data_mirrors_that_of_positive():
    low, high = collect("entropy", SHAPES["below zero"]).range(AFFINE)
    width = histogram_collector("entropy", SHAPES["relu"]).histogram.width
    assert high == 0
    assert collect("entropy", SHAPES["relu"]).range(AFFINE) == (0.0, pytest.approx(-low, abs=64 * width))


def _divergence(counts: np.ndarray, first: int, t: int, spec: QSpec) -> float:
    """Migacz's procedure for one clip of t bins on each side, written as he does: integer by integer."""
    levels = spec.qmax - spec.qmin + 1
    start, end = max(-t, first), min(t, first + len(counts))
    grid_start, grid_end = (-t, t) if spec.symmetric else (start, end)
    kept = counts[start - first : end - first]
    if grid_end - grid_start < levels or not kept.any():
        return math.inf
    reference = kept.copy()
    reference[0] += counts[: start - first].sum()
    reference[-1] += counts[end - first :].sum()
    quantized = np.zeros_like(kept)
    integer = (np.arange(start, end) - grid_start) * levels // (grid_end - grid_start)
    for level in np.unique(integer):
        bins = (integer == level) & (reference > 0)
        if bins.any():
            quantized[bins] = max(kept[bins].sum() / bins.sum(), 1e-4)
    p, q = reference / reference.sum(), quantized / quantized.sum()
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())
