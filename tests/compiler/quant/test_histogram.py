import math
import pickle

import numpy as np
import pytest
import torch
from fxedge.compiler.quant.histogram import Histogram
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

MAGNITUDES = st.floats(2.0**-60, 2.0**60, width=32)
FLOATS = st.one_of(st.just(0.0), MAGNITUDES, MAGNITUDES.map(float.__neg__))
BATCHES = st.lists(st.lists(FLOATS, min_size=1, max_size=6), min_size=1, max_size=6)


def filled(*batches: Tensor, bins: int = 2048) -> Histogram:
    histogram = Histogram(bins)
    for batch in batches:
        histogram.add(batch, batch.min().item(), batch.max().item())
    return histogram


def state(histogram: Histogram) -> tuple[int, int, list[int]]:
    return histogram.exponent, histogram.first, histogram.counts.tolist()


@settings(max_examples=60, deadline=None)
@given(BATCHES, st.sampled_from([8, 64, 2048]))
def test_merged_counts_are_those_of_the_final_width(values: list[list[float]], bins: int):
    histogram = filled(*map(torch.tensor, values), bins=bins)
    everything = np.concatenate([np.asarray(batch, np.float64) for batch in values])
    index = np.floor(everything / histogram.width).astype(np.int64) - histogram.first
    assert histogram.counts.tolist() == np.bincount(index, minlength=bins).tolist()


@settings(max_examples=40, deadline=None)
@given(BATCHES, st.randoms(use_true_random=False))
def test_order_and_batches_do_not_matter(values: list[list[float]], random):
    everything = [value for batch in values for value in batch]
    shuffled = random.sample(everything, len(everything))
    merged = filled(*map(torch.tensor, values), bins=64)
    assert state(merged) == state(filled(torch.tensor(shuffled), bins=64))


@settings(max_examples=40, deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=6), st.sampled_from([8, 64, 2048]))
def test_width_is_at_most_the_span_over_half_the_bins(values: list[float], bins: int):
    histogram = filled(torch.tensor(values), bins=bins)
    span = max(*values, 0.0) - min(*values, 0.0)
    assert histogram.width <= max(span / (bins / 2 - 1), 2.0**-126)
    assert histogram.used <= bins


def test_counts_past_what_a_float32_counter_holds():
    assert filled(torch.ones(2**24 + 3)).counts.max() == 2**24 + 3


def test_zero_is_an_edge_for_the_smallest_values():
    histogram = filled(torch.tensor([-1.0, -1e-30, 0.0, 1e-30, 1.0]), bins=4)
    assert (histogram.width, histogram.first, histogram.counts.tolist()) == (1.0, -1, [2, 2, 1, 0])
    assert histogram.edges().tolist() == [-1.0, 0.0, 1.0, 1.0]


def test_growth_merges_pairs_and_keeps_zero():
    histogram = filled(torch.tensor([0.0, 1.0, 2.0, 3.0]), bins=4)
    assert (histogram.width, histogram.counts.tolist()) == (1.0, [1, 1, 1, 1])
    histogram.add(torch.tensor([7.0]), 7.0, 7.0)
    assert (histogram.width, histogram.counts.tolist()) == (2.0, [2, 2, 0, 1])
    histogram.add(torch.tensor([-1.0]), -1.0, -1.0)
    assert (histogram.width, histogram.first, histogram.counts.tolist()) == (4.0, -1, [1, 4, 1, 0])


def test_all_zeros_then_the_largest_float():
    largest = torch.finfo(torch.float32).max
    histogram = filled(torch.zeros(5), torch.tensor([-largest, largest]))
    assert histogram.counts.sum() == 7
    assert histogram.counts[-histogram.first] == 5
    assert (histogram.edges()[0], histogram.edges()[-1]) == (-largest, largest)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_counts_as_float32(dtype: torch.dtype):
    x = torch.linspace(-1e-3, 1e-3, 500).to(dtype)
    assert state(filled(x)) == state(filled(x.float()))


def test_memory_is_bounded():
    histogram = Histogram()
    sizes = []
    for exponent in range(-40, 41):
        x = torch.linspace(-1, 2, 1000) * 2.0**exponent
        histogram.add(x, x.min().item(), x.max().item())
        sizes.append(len(pickle.dumps(histogram)))
    assert histogram.counts.nbytes == 16 * 1024
    assert max(sizes) < 17 * 1024
    assert histogram.counts.sum() == 81_000
    assert math.ldexp(1.0, histogram.exponent) == histogram.width
