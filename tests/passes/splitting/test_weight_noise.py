"""The errors by which `split_outliers` chooses, against rounding for real."""

import dataclasses

import pytest
import torch
from fxedge.passes._layers import Layer
from fxedge.passes.splitting.parts import split_parts
from fxedge.passes.splitting.weight_noise import LeastErrorNoise, MinMaxNoise, Rows, grid_reach, weight_noise
from torch import Tensor
from toy_target import WEIGHT, HandWritten

W4 = dataclasses.replace(WEIGHT, qmin=-7, qmax=7)
ONE = torch.ones(12, dtype=torch.int64)


def layer(groups: int = 1, outputs: int = 16) -> Layer:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, 12 // groups, 3, 3, generator=generator)
    weight[:, 2] *= 4
    b = HandWritten()
    node = b(torch.ops.aten.conv2d.default, b.x, b.constant("w", weight), None, [1, 1], [0, 0], [1, 1], groups)
    b.done(node)
    return Layer(node, weight, None, groups)


def rounded_in_parts(of: Layer, copies: Tensor, reach: Tensor) -> Tensor:
    """The weight, its columns cut into parts, each rounded to the grid that ends at `reach` [outputs]."""
    step = (reach / 7).float().view(-1, 1, 1)
    columns = []
    for channel, parts in enumerate(copies.tolist()):
        cut = split_parts(of.weight[:, channel], parts, step)
        columns.append(torch.stack([torch.round(part / step).clamp(-7, 7) * step for part in cut]).sum(0))
    return torch.stack(columns, 1)


@pytest.mark.parametrize("copies", [{}, {2: 2}, {2: 3, 7: 2}])
def test_the_error_of_a_clipped_grid_is_that_of_rounding_the_parts(copies: dict[int, int]) -> None:
    conv, parts = layer(), ONE.clone()
    for channel, count in copies.items():
        parts[channel] = count
    rows = Rows.of(conv, W4)
    reach = grid_reach(rows, "mse", parts)
    real = (rounded_in_parts(conv, parts, reach) - conv.weight).square().sum()
    assert LeastErrorNoise(rows, parts).total() == pytest.approx(float(real), rel=0.02)


def test_the_error_of_a_whole_grid_is_about_that_of_rounding_the_parts() -> None:
    conv, parts = layer(), ONE.clone()
    parts[2] = 3
    rows = Rows.of(conv, W4)
    noise = MinMaxNoise(rows, parts)
    reach = grid_reach(rows, "minmax", parts)
    step = (reach / 7).float().view(-1, 1, 1)
    largest = [
        torch.stack(split_parts(conv.weight[:, c], int(parts[c]), step)).abs().amax((0, 2, 3)) for c in range(12)
    ]
    torch.testing.assert_close(torch.stack(largest).amax(0), reach.float())
    real = (rounded_in_parts(conv, parts, reach) - conv.weight).square().sum()
    assert noise.total() == pytest.approx(float(real), rel=0.1)


@pytest.mark.parametrize("method", ["minmax", "mse"])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("groups", [1, 3])
def test_gains_are_what_a_split_then_saves(method: str, per_channel: bool, groups: int) -> None:
    rows = Rows.of(layer(groups, 18), dataclasses.replace(W4, per_channel=per_channel), torch.arange(1.0, 13.0))
    noise = weight_noise(rows, method)
    for channel in (2, 2, 5):
        gains, before = noise.gains(), noise.total()
        noise.split(channel)
        assert float(gains[channel]) == pytest.approx(before - noise.total(), rel=1e-3, abs=1e-6 * before)
    assert noise.copies.tolist() == [1, 1, 3, 1, 1, 2, 1, 1, 1, 1, 1, 1]


def test_channels_that_carry_more_count_more() -> None:
    power = torch.ones(12)
    power[4] = 100.0
    conv = layer()
    quiet, loud = (Rows.of(conv, W4, given).energy() for given in (None, power))
    torch.testing.assert_close((loud - quiet).float(), 99 * conv.weight[:, 4].square().sum((1, 2)))


def test_a_large_layer_is_judged_by_some_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows.of(layer(), W4)
    assert rows.sampled().sizes.shape == (16, 12, 9)
    monkeypatch.setattr("fxedge.passes.splitting.weight_noise._MOST", 16 * 12 * 36 // 4)
    assert rows.sampled().sizes.shape == (4, 12, 9)
    few, all_of_them = LeastErrorNoise(rows.sampled(), ONE), LeastErrorNoise(rows, ONE)
    assert few.total() / rows.sampled().total() == pytest.approx(all_of_them.total() / rows.total(), rel=0.3)
    assert few.gains().argmax() == all_of_them.gains().argmax() == 2
