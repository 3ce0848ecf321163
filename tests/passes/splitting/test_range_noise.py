"""What one scale costs a value, against rounding for real."""

import pytest
import torch
from fxedge.passes.splitting.range_noise import RangeNoise
from torch import Tensor


def test_shares_of_a_value_are_rounded_alike() -> None:
    low, high = torch.tensor([-1.0, -2.0, 0.0, 0.5]), torch.tensor([3.0, 10.0, 4.0, 1.0])
    noise = RangeNoise(low, high, 2.0)
    assert noise.total() == pytest.approx((12 / 255) ** 2 / 12 / 2)
    gains = noise.gains()
    assert gains.argmax() == 1
    noise.split(1)
    after = (6 / 255) ** 2 / 12 / 2 * (4 + 3) / 4
    assert noise.total() == pytest.approx(after)
    assert float(gains[1]) == pytest.approx((12 / 255) ** 2 / 12 / 2 - after)
    generator = torch.Generator().manual_seed(0)
    values = torch.empty(4, 20_000).uniform_(generator=generator) * (high - low)[:, None] + low[:, None]
    errors = torch.stack([_rounding(x, m, 6 / 255) for x, m in zip(values, (1, 2, 1, 1), strict=True)])
    assert float(errors.square().mean()) / 2 == pytest.approx(after, rel=0.02)


def _rounding(values: Tensor, shares: int, step: float) -> Tensor:
    return torch.round(values / shares / step) * step * shares - values


def test_channels_of_one_range_are_not_worth_shares() -> None:
    noise = RangeNoise(torch.zeros(8), torch.full((8,), 5.0), 1.0)
    assert (noise.gains() < 1e-9).all()
    start = noise.total()
    for channel in range(8):
        noise.split(channel)
    assert noise.total() == pytest.approx(start)


def test_a_value_of_zeros_has_no_error() -> None:
    noise = RangeNoise(torch.zeros(3), torch.zeros(3), 0.0)
    assert noise.total() == 0.0
    assert torch.isfinite(noise.gains()).all()
