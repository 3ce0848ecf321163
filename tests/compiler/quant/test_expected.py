import pytest
import torch
from fxedge.compiler.ir.passes import PassContext, run_passes
from fxedge.compiler.ir.shapes import annotate
from fxedge.compiler.quant.channel_stats import ChannelStat, ChannelStats
from fxedge.compiler.quant.expected import clipped_normal, expected_values
from fxedge.passes.canonicalize import Canonicalize
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Calls, inputs
from torch import nn
from torch.nn import functional as F
from toy_target import captured

X = inputs((2, 4, 6, 6))[0]
MEAN, STD = torch.tensor([0.5, -1.0, 2.0, 0.0]), torch.tensor([1.0, 0.5, 0.0, 2.0])
INFINITE = float("inf")


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


@settings(deadline=None)
@given(
    mean=st.floats(-5, 5),
    std=st.floats(0.1, 3),
    low=st.one_of(st.just(-INFINITE), st.floats(-4, 0)),
    high=st.one_of(st.just(INFINITE), st.floats(0, 6)),
)
def test_the_clipped_normal_is_that_of_many_samples(mean, std, low, high):
    """Against the midpoints of many equally probable parts of the normal."""
    x = mean + std * torch.special.ndtri((torch.arange(10**4, dtype=torch.float64) + 0.5) / 10**4)
    found = clipped_normal(number(mean), number(std**2), number(low), number(high))
    clipped = x.clamp(low, high)
    torch.testing.assert_close(found.mean, clipped.mean(), rtol=0, atol=5e-4 * std)
    torch.testing.assert_close(found.variance, clipped.var(), rtol=0, atol=3e-3 * std**2)


def test_a_constant_is_clipped_as_a_number():
    found = clipped_normal(number(7.0), number(0.0), number(0.0), number(6.0))
    assert (float(found.mean), float(found.variance)) == (6.0, 0.0)


def expected(function, x=X, **parts):
    """What is expected of the result of `function`, its convolution `a` having known statistics."""
    gm = captured(Calls(function, a=nn.Conv2d(4, 4, 1), **parts).eval(), x)
    run_passes(gm, [Canonicalize()], PassContext())
    annotate(gm)
    values = expected_values(gm, ChannelStats({"a.weight": ChannelStat(MEAN, STD)}))
    name = next(node for node in reversed(gm.graph.nodes) if node.op == "output").args[0][0].name
    return values.known.get(name), values.unknown.get(name)


def samples(count: int = 20000) -> torch.Tensor:
    """What the convolution gives where every element is on its own: [count, 4, 6, 6]."""
    noise = torch.randn(count, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    return MEAN.view(4, 1, 1) + STD.view(4, 1, 1) * noise


WEIGHT = torch.randn(3, 4, 3, 3, generator=torch.Generator().manual_seed(1)) / 6
LINE = torch.randn(5, 144, generator=torch.Generator().manual_seed(2)) / 12


@pytest.mark.parametrize(
    "function",
    [
        lambda y: F.relu(y),
        lambda y: F.relu6(y * 3 + 1),
        lambda y: torch.clamp(y, max=torch.tensor([0.0, -1.0, 5.0, 1.0]).view(4, 1, 1)),
        lambda y: F.silu(y) - 0.5,
        lambda y: F.gelu(y) / 4,
        lambda y: F.pad(F.hardswish(y), (1, 1, 1, 1)),
        lambda y: torch.cat([y[:, 2:], y.chunk(2, 1)[0].sigmoid()], 1),
        lambda y: F.conv2d(F.relu(y), WEIGHT, torch.ones(3), padding=1),
        lambda y: F.linear(F.relu(y).flatten(1), LINE),
        lambda y: F.relu(y).permute(0, 2, 3, 1).reshape(y.shape[0], -1, 2),
    ],
    ids=["relu", "relu6", "bounds", "silu", "gelu", "pad", "pieces", "conv", "linear", "views"],
)
def test_expects_what_many_samples_give(function):
    found, reason = expected(lambda m, x: (function(m.a(x)),))
    assert reason is None
    many = function(samples())
    assert found.mean.shape == (1, *many.shape[1:])
    torch.testing.assert_close(found.mean[0].float(), many.mean(0), rtol=0.02, atol=0.06)
    torch.testing.assert_close(found.variance[0].float(), many.var(0), rtol=0.08, atol=0.1)


def test_adds_and_multiplies_independent_values():
    found, _ = expected(lambda m, x: (m.a(x).relu() * 2 + m.a(x) * m.a(x).sigmoid(),))
    y = [samples(), samples().flip(0), samples().roll(5000, 0)]
    many = y[0].relu() * 2 + y[1] * y[2].sigmoid()
    torch.testing.assert_close(found.mean[0].float(), many.mean(0), rtol=0.02, atol=0.06)
    torch.testing.assert_close(found.variance[0].float(), many.var(0), rtol=0.08, atol=0.1)


def test_averages_keep_means_and_variances():
    found, _ = expected(lambda m, x: (F.avg_pool2d(m.a(x), 2).mean((2, 3)),))
    torch.testing.assert_close(found.mean.float(), MEAN[None])
    torch.testing.assert_close(found.variance.float(), STD.square()[None])


def test_what_is_not_known_says_why():
    assert expected(lambda m, x: (x.relu(),))[1] == "nothing is known of the input x"
    assert expected(lambda m, x: (m.a(x) + x.relu(),))[1] == "nothing is known of the input x"
    reason = "what max_pool2d.default gives at max_pool2d is not known"
    assert expected(lambda m, x: (F.max_pool2d(m.a(x), 2).relu(),))[1] == reason
    reason = "what div.Tensor gives at div is not known"
    assert expected(lambda m, x: (m.a(x) / m.a(x).sigmoid(),))[1] == reason
    reason = "the weight of conv2d_2 is computed, not constant"
    assert expected(lambda m, x: (F.conv2d(m.a(x), m.a(x).mean(0, keepdim=True)),))[1] == reason
