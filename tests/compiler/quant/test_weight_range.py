import dataclasses

import pytest
import torch
from fxedge.compiler.quant.weight_range import rounding_error, weight_reach, weight_rows
from toy_target import WEIGHT

W4 = dataclasses.replace(WEIGHT, qmin=-7, qmax=7)
TENSOR4 = dataclasses.replace(W4, per_channel=False)


def gaussian(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_minmax_reaches_the_largest_element():
    weight = torch.tensor([[1.0, -3.0], [0.5, 0.25]])
    assert weight_reach(weight, W4, 0).tolist() == [3.0, 0.5]
    assert weight_reach(weight, W4, 1).tolist() == [1.0, 3.0]
    assert weight_reach(weight, TENSOR4, 0).tolist() == [3.0]


@pytest.mark.parametrize("spec", [W4, TENSOR4])
def test_the_least_error_is_not_above_that_of_any_uniform_shrink(spec):
    weight = gaussian(6, 4, 3, 3)
    rows = weight_rows(weight, spec, 0)
    reach = weight_reach(weight, spec, 0, "mse")
    least = rounding_error(rows, reach, spec)
    for part in torch.linspace(0.1, 1.0, 50).tolist():
        assert (least <= rounding_error(rows, rows.abs().amax(1) * part, spec) * 1.02).all()


def test_an_outlier_is_clipped_at_few_bits_and_kept_on_the_grid():
    weight = gaussian(1, 1000)
    weight[0, 0] = 10.0
    reach = weight_reach(weight, W4, 0, "mse").item()
    assert 1.5 < reach < 4.0
    exact = torch.arange(-7, 8).float().reshape(1, -1)
    assert weight_reach(exact, W4, 0, "mse").item() == 7.0


def test_the_error_counts_rounding_and_clipping():
    rows = torch.tensor([[7.0, 2.25, -9.0]])
    assert rounding_error(rows, torch.tensor([7.0]), W4).tolist() == [0.25**2 + 2.0**2]


def test_zero_channels_have_no_error():
    weight = torch.zeros(2, 3)
    weight[0] = 1.0
    assert weight_reach(weight, W4, 0, "mse").tolist() == [1.0, 0.0]
    assert rounding_error(weight, torch.tensor([1.0, 0.0]), W4).tolist() == [0.0, 0.0]
