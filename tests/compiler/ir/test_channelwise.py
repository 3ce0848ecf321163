"""The facts about ops that keep channels apart, each checked on numbers."""

from __future__ import annotations

import math

import pytest
import torch
from fxedge.compiler.ir.channelwise import ELEMENTWISE, EVERYTHING, MAX_POOLS, WINDOWS, Elementwise, Window
from fxedge.compiler.ir.ops import aten, op_name
from torch import Tensor
from torch._ops import OpOverload

POINTS = torch.linspace(-12, 12, 24001, dtype=torch.float64)
ARGUMENTS = {aten.clamp.default: (-2.0, 3.0), aten.softplus.default: (1.0, 1.0)}

by_function = pytest.mark.parametrize(("op", "facts"), ELEMENTWISE.items(), ids=lambda item: _id(item))
by_window = pytest.mark.parametrize(("op", "facts"), WINDOWS.items(), ids=lambda item: _id(item))


def _id(item: object) -> str | None:
    return op_name(item) if isinstance(item, OpOverload) else None


def _values(op: OpOverload) -> Tensor:
    return op(POINTS, *ARGUMENTS.get(op, ()))


@by_function
def test_homogeneous(op: OpOverload, facts: Elementwise) -> None:
    scaled = op(3 * POINTS, *ARGUMENTS.get(op, ()))
    assert torch.allclose(scaled, 3 * _values(op), atol=1e-12) == facts.homogeneous


@by_function
def test_lowest(op: OpOverload, facts: Elementwise) -> None:
    steps = _values(op).diff()
    if facts.lowest is None:
        assert bool((steps < -1e-6).any())
        return
    before = POINTS[1:] <= facts.lowest - 1e-3
    after = POINTS[:-1] >= facts.lowest
    assert bool((steps[before] <= 0).all())
    assert bool((steps[after] >= 0).all())
    assert facts.rises == (facts.lowest == -math.inf)


@by_function
def test_varies(op: OpOverload, facts: Elementwise) -> None:
    low, high = facts.varies
    values = _values(op)
    for outside in (values[low >= POINTS], values[high <= POINTS]):
        if outside.numel():
            assert float(outside.max() - outside.min()) <= 0.003
    if facts.varies == EVERYTHING and op not in (aten.relu.default, aten.hardtanh.default, aten.clamp.default):
        assert values[0] != values[500]
        assert values[-1] != values[-500]


def _image(op: OpOverload, facts: Window, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(1, 2, *(6,) * facts.spatial, dtype=torch.float64)


def _apply(op: OpOverload, facts: Window, x: Tensor) -> Tensor:
    """Sizes of 2 for every window, pad and target; interpolation to 9 places."""
    pair = [2] * facts.spatial
    name = op_name(op)
    if "upsample" not in name:
        return op(x, pair * 2 if "_pad" in name else pair)
    size = [9] * facts.spatial
    nearest = "nearest" in name
    if op._overloadname == "vec":
        return op(x, size, None) if nearest else op(x, size, False, None)
    return op(x, size) if nearest else op(x, size, False)


@by_window
def test_channels_stay_apart_and_scale(op: OpOverload, facts: Window) -> None:
    x = _image(op, facts, 0)
    result = _apply(op, facts, x)
    scaled = _apply(op, facts, x * torch.tensor([1.0, 4.0]).view(1, 2, *(1,) * facts.spatial))
    torch.testing.assert_close(scaled[:, 0], result[:, 0])
    torch.testing.assert_close(scaled[:, 1], 4 * result[:, 1])


@by_window
def test_means_and_rising(op: OpOverload, facts: Window) -> None:
    constant = _apply(op, facts, torch.full_like(_image(op, facts, 0), 5.0))
    torch.testing.assert_close(constant, torch.full_like(constant, 5.0))
    x, y = _image(op, facts, 0), _image(op, facts, 1)
    is_linear = torch.allclose(_apply(op, facts, x + y), _apply(op, facts, x) + _apply(op, facts, y))
    higher = _apply(op, facts, x + y.abs()) - _apply(op, facts, x)
    assert facts.rises == bool((higher >= -1e-12).all())
    assert facts.mean == (is_linear and facts.rises)
    assert is_linear == (op not in MAX_POOLS)
