import math
import time

import numpy as np
import pytest
from fxedge.compiler.tools.bench.figures import Ratio, median, paired_ratio, percentile, unpaired_ratio
from hypothesis import given
from hypothesis import strategies as st

seconds = st.lists(st.floats(1e-6, 10), min_size=1, max_size=60)


@given(seconds, st.floats(0.01, 1))
def test_a_percentile_is_a_value_that_the_share_does_not_exceed(values: list[float], share: float):
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


def test_percentiles_of_a_hundred():
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0.5, 0.9, 0.99, 1.0)] == [50.0, 90.0, 99.0, 100.0]
    assert median(values) == 50.5


@given(seconds, st.floats(0.1, 10))
def test_a_constant_factor_is_found_exactly(values: list[float], factor: float):
    found = paired_ratio([factor * value for value in values], values)
    assert found.value == pytest.approx(factor)
    if len(values) < 6:
        assert (found.low, found.high) == (None, None)
    else:
        assert found.low == pytest.approx(factor)
        assert found.high == pytest.approx(factor)


@given(st.lists(st.tuples(st.floats(1e-6, 10), st.floats(1e-6, 10)), min_size=6, max_size=60))
def test_the_interval_encloses_the_median_and_turns_with_the_ratio(pairs: list[tuple[float, float]]):
    above, below = zip(*pairs, strict=True)
    found, turned = paired_ratio(above, below), paired_ratio(below, above)
    assert found.low <= found.value <= found.high
    assert (turned.low, turned.high) == (pytest.approx(1 / found.high), pytest.approx(1 / found.low))


@pytest.mark.parametrize(
    ("count", "rank"), [(6, 1), (8, 1), (9, 2), (20, 6), (100, 40), (1000, 469), (5000, 2431)]
)
def test_ranks_of_the_tables(count: int, rank: int):
    """The sign test's two-sided 5 % values; beyond a thousand next to the normal law's."""
    ratios = [float(value) for value in range(1, count + 1)]
    found = paired_ratio(ratios, [1.0] * count)
    assert (found.low, found.high) == (float(rank), float(count + 1 - rank))
    if count >= 1000:
        assert abs(rank - (count / 2 - 0.98 * math.sqrt(count))) < 1.5


def test_ranks_of_many_pairs_take_no_time():
    """A hundredth of what it takes to compute every binomial from the start."""
    values, before = [1.0] * 20_000, time.process_time()
    assert paired_ratio(values, values) == Ratio(1.0, 1.0, 1.0)
    assert time.process_time() - before < 5


def test_the_interval_covers_what_it_says():
    """A skewed law whose median ratio is 1: 95 % of the intervals have it, up to the chance of 400 trials."""
    random, hits = np.random.default_rng(0), 0
    for _ in range(400):
        found = paired_ratio(np.exp(random.gumbel(size=25) + math.log(math.log(2))), np.ones(25))
        hits += found.low <= 1 <= found.high
    assert 0.92 <= hits / 400 <= 0.99


@given(st.lists(st.floats(1e-3, 10), min_size=2, max_size=40), st.floats(0.1, 10))
def test_unpaired_runs_scale(values: list[float], factor: float):
    found = unpaired_ratio([factor * value for value in values], values)
    assert found.value == pytest.approx(factor)
    assert found.low <= found.value * (1 + 1e-9)
    assert found.high >= found.value * (1 - 1e-9)
    assert found == unpaired_ratio([factor * value for value in values], values)


def test_unpaired_runs_may_differ_in_length_and_need_two_values():
    found = unpaired_ratio([2.0] * 5, [1.0] * 9)
    assert found == Ratio(2.0, 2.0, 2.0)
    assert unpaired_ratio([2.0], [1.0, 1.0]) == Ratio(2.0, None, None)


def test_how_a_ratio_reads():
    assert Ratio(1.9249, 1.8512, 2.0099).format() == "1.92× [1.85, 2.01]"
    assert Ratio(1.9249, None, None).format() == "1.92× [too few runs for an interval]"
