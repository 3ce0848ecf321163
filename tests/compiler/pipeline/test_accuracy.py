import math

import numpy as np
import pytest
from fxedge.compiler.pipeline.accuracy import Share, accuracy, top1


def test_ties_go_to_the_lowest_index():
    assert top1(np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])).tolist() == [1, 0]


def test_counts_hits():
    assert accuracy(np.array([1, 2, 0, 2]), np.array([1, 2, 2, 2])) == Share(3, 4)


@pytest.mark.parametrize(("hits", "total"), [(395, 500), (1, 40), (499, 500)])
def test_the_bounds_are_where_the_normal_test_just_accepts(hits: int, total: int):
    """Wilson's interval: the p with |hits / total - p| = z * sqrt(p (1 - p) / total)."""
    for bound in Share(hits, total).interval:
        off = abs(hits / total - bound) / math.sqrt(bound * (1 - bound) / total)
        assert off == pytest.approx(1.959964, abs=1e-5)


def test_the_interval_stays_inside_at_the_ends():
    z2 = 1.959963984540054**2
    assert Share(0, 10).interval == (pytest.approx(0, abs=1e-12), pytest.approx(z2 / (10 + z2)))
    assert Share(10, 10).interval == (pytest.approx(10 / (10 + z2)), pytest.approx(1, abs=1e-12))


def test_format():
    assert Share(395, 500).format() == "79.0 % [75.2, 82.3]"
