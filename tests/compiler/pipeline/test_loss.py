import math

import pytest
import torch
from fxedge.compiler.pipeline.accuracy import Share
from fxedge.compiler.pipeline.loss import ErrorSums, Loss, OutputLoss, finite_or_none


def test_sqnr_and_cosine_of_sums_over_batches():
    sums = ErrorSums()
    sums.add(torch.tensor([3.0, 0.0]), torch.tensor([3.0, 0.0]))
    sums.add(torch.tensor([0.0, 4.5]), torch.tensor([0.0, 4.0]))
    assert sums.sqnr == pytest.approx(10 * math.log10(25 / 0.25))
    assert sums.cosine == pytest.approx((9 + 18) / math.sqrt(25 * (9 + 4.5**2)))


def test_nothing_differs_or_there_is_no_signal():
    same, silent, both = ErrorSums(), ErrorSums(), ErrorSums()
    same.add(torch.tensor([1.0, -math.inf]), torch.tensor([1.0, -math.inf]))
    silent.add(torch.ones(2), torch.zeros(2))
    both.add(torch.zeros(2), torch.zeros(2))
    assert (same.sqnr, same.cosine) == (math.inf, 1.0)
    assert (silent.sqnr, silent.cosine) == (-math.inf, None)
    assert (both.sqnr, both.cosine) == (math.inf, None)


def test_an_infinity_on_one_side_is_all_noise():
    sums = ErrorSums()
    sums.add(torch.tensor([math.inf, 1.0]), torch.tensor([2.0, 1.0]))
    assert sums.sqnr == -math.inf
    sums = ErrorSums()
    sums.add(torch.tensor([math.nan, 1.0]), torch.tensor([2.0, 1.0]))
    assert sums.sqnr == -math.inf


def test_a_classifier_counts_changed_predictions():
    loss = OutputLoss()
    loss.add([torch.tensor([[1.0, 2.0], [2.0, 1.0]])], [torch.tensor([[1.0, 2.0], [1.0, 2.0]])])
    loss.add([torch.tensor([[0.0, 1.0]])], [torch.tensor([[0.0, 1.0]])])
    found = loss.result()
    assert found.changed == Share(1, 3)
    assert found.agreement == Share(2, 3)
    assert found.sqnr == pytest.approx(10 * math.log10((5 + 5 + 1) / 2))
    assert found.noise == pytest.approx(2 / 11)


def test_several_outputs_count_the_same_whatever_their_size():
    loss = OutputLoss()
    expected = [torch.full((2, 3, 4, 4), 100.0), torch.ones(2, 1)]
    loss.add([expected[0] * 1.1, expected[1]], expected)
    assert loss.result() == Loss(pytest.approx(10 * math.log10(2 / 0.01), rel=1e-5), None)


def test_an_output_of_one_column_is_no_classifier():
    loss = OutputLoss()
    loss.add([torch.ones(4, 1)], [torch.ones(4, 1)])
    assert loss.result() == Loss(math.inf, None)
    assert loss.result().agreement is None


def test_figures_for_json():
    assert [finite_or_none(value) for value in (1.23456, math.inf, -math.inf, None)] == [1.235, None, None, None]
