import pytest
import torch
from fxedge.passes._slopes import Slopes
from support import Calls, inputs
from torch import nn
from torch.nn import functional as F
from toy_target import captured

X = inputs((1, 2, 4, 4))
VALUE = torch.tensor([-4.0, -1.0, 0.5, 8.0])


def squared(function) -> torch.Tensor | None:
    slopes = Slopes(captured(Calls(function, conv=nn.Conv2d(2, 2, 1)), *X))
    return slopes.squared("conv2d", VALUE)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda m, x: F.relu(m.conv(x)), [0, 0, 1, 1]),
        (lambda m, x: F.hardtanh(m.conv(x), 0, 6), [0, 0, 1, 0]),
        (lambda m, x: F.leaky_relu(m.conv(x), 0.5), [0.25, 0.25, 1, 1]),
        (lambda m, x: F.hardswish(m.conv(x)), [0, (1 / 6) ** 2, (4 / 6) ** 2, 1]),
        (lambda m, x: F.hardtanh(F.leaky_relu(m.conv(x), 0.5), 0, 6), [0, 0, 1, 0]),
    ],
)
def test_of_the_activation_that_alone_reads_the_value(function, expected):
    assert squared(function).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.conv(x),
        lambda m, x: F.max_pool2d(m.conv(x), 2),
        lambda m, x: F.relu(y := m.conv(x)) + y,
    ],
    ids=["none", "no-activation", "another-reader"],
)
def test_without_one_all_of_an_error_gets_through(function):
    assert squared(function) is None


def test_through_a_clamp_with_a_bound_for_each_channel():
    high = torch.tensor([1.0, 6.0]).view(2, 1, 1)
    calls = Calls(lambda m, x: torch.clamp(F.relu(m.conv(x)), max=m.high), conv=nn.Conv2d(2, 2, 1), high=high)
    value = torch.tensor([-1.0, 0.5, 3.0, 8.0]).view(1, 1, 4, 1).expand(1, 2, 4, 1)
    slopes = Slopes(captured(calls, *X)).squared("conv2d", value)
    assert slopes is not None
    assert slopes.flatten(2).tolist() == [[[0, 1, 0, 0], [0, 1, 1, 0]]]
