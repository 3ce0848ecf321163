"""AbsorbBias: what moves, from statistics and from samples, what stays and why."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.constants import constants, get_constant
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.passes import PassContext, PassResult, Skip, run_passes
from fxedge.compiler.quant.channel_stats import ChannelStat, ChannelStats
from fxedge.passes import Canonicalize, FoldBatchNorm, FuseActivation
from fxedge.passes.absorb_bias import AbsorbBias
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Calls, graph, inputs, with_random_norms
from torch import Tensor, fx, nn

IMAGE = (4, 3, 6, 6)


def conv(channels: int, out: int, kernel: int = 1, *, bias: Sequence[float] = (), **options: object) -> nn.Conv2d:
    """Weights of about 1 / channels; the given biases."""
    torch.manual_seed(channels + out)
    layer = nn.Conv2d(channels, out, kernel, bias=bool(bias), **options)  # type: ignore[arg-type]
    with torch.no_grad():
        layer.weight.uniform_(-1 / channels, 1 / channels)
        if bias:
            layer.bias.copy_(torch.tensor(bias))
    return layer


def absorb(
    model: nn.Module, *, batches: Sequence[Tensor] | None = inputs(IMAGE), stats: ChannelStats | None = None
) -> tuple[fx.GraphModule, PassResult, float]:
    """The graph after the pass, what it did, by how much outputs moved; a second run must change nothing."""
    gm = capture(model.eval(), inputs(IMAGE))
    run_passes(gm, [Canonicalize(), FoldBatchNorm(), FuseActivation()], PassContext(channel_stats=stats))
    ctx = PassContext(
        example_inputs=inputs(IMAGE),
        channel_stats=stats,
        batches=None if batches is None else lambda: ((batch,) for batch in batches),
    )
    report = run_passes(gm, [AbsorbBias()], ctx)
    result = report["absorb-bias"]
    assert result.rolled_back is None
    before = constants(gm)
    assert run_passes(gm, [AbsorbBias()], ctx)["absorb-bias"].changes == 0
    assert all(torch.equal(value, before[name]) for name, value in constants(gm).items())
    return gm, result, report.max_error.get("absorb-bias", 0.0)


def test_moves_what_the_samples_always_exceed() -> None:
    first, second = conv(3, 4, bias=(9.0, 0.1, -9.0, 6.0)), conv(4, 2, 3)
    gm, result, error = absorb(nn.Sequential(first, nn.ReLU(), second))
    assert result == PassResult(2)
    assert error < 1e-6
    assert dump(gm) == graph("""
        %0 = input input
        %1 = conv2d.default(%0, @0.weight, @0.bias, [1, 1], [0, 0], [1, 1], 1)
        %2 = relu.default(%1)
        %3 = conv2d.default(%2, @2.weight, @2.bias, [1, 1], [0, 0], [1, 1], 1)
        return %3""")
    moved = first.bias.detach() - get_constant(gm, "0.bias")
    values = first(*inputs(IMAGE)).detach().movedim(1, 0).flatten(1)
    mean = values.mean(1)
    lowest = torch.minimum(mean - 2 * (mean - values.amin(1)), mean - 3 * values.std(1, correction=0))
    torch.testing.assert_close(moved, torch.where(lowest > 0, lowest, 0.0))
    torch.testing.assert_close(get_constant(gm, "2.bias"), (second.weight.detach().sum((2, 3)) * moved).sum(1))


def test_inputs_may_go_beyond_the_samples_by_the_margin() -> None:
    model = nn.Sequential(conv(3, 4, bias=(9.0, 0.1, -9.0, 6.0)), nn.ReLU(), conv(4, 2, 3))
    gm, _, _ = absorb(model)
    beyond = 1.8 * inputs(IMAGE)[0]
    torch.testing.assert_close(gm(beyond), model(beyond).detach())
    far = 30 * inputs(IMAGE)[0]
    assert not torch.allclose(gm(far), model(far).detach())


def test_batch_norm_statistics_do_without_samples() -> None:
    model = with_random_norms(nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 2)))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, 1.0, 0.5, 2.0]))
        model[1].bias.copy_(torch.tensor([8.0, 2.0, 5.0, -1.0]))
        model[1].running_mean.zero_()
        model[1].running_var.fill_(4 * float(model[0](*inputs(IMAGE)).var()))
    stats = ChannelStats()
    _, result, error = absorb(model, batches=None, stats=stats)
    assert result.changes == 2
    assert error < 1e-6
    mean = stats.by_weight["0.weight"].mean
    assert mean.tolist() == pytest.approx([3.0, 2.0, 1.5, -1.0], abs=1e-5)  # three deviations are left


def test_examples_below_the_statistics_are_kept() -> None:
    """The statistics promise 7 or more, the examples reach about 5."""
    stats = ChannelStats({"0.weight": ChannelStat(torch.full((2,), 7.3), torch.full((2,), 0.1))})
    model = nn.Sequential(conv(3, 2, bias=(7.3, 7.3)), nn.ReLU(), conv(2, 2))
    gm, result, error = absorb(model, batches=None, stats=stats)
    assert result.changes == 2
    assert error < 1e-6
    moved = model[0].bias.detach() - get_constant(gm, "0.bias")
    torch.testing.assert_close(moved, model[0](*inputs(IMAGE)).detach().amin((0, 2, 3)))
    assert moved.max() < 7


def test_a_channel_that_reaches_its_upper_bound_stays() -> None:
    model = nn.Sequential(conv(3, 3, bias=(3.0, 5.9, 0.0)), nn.ReLU6(), conv(3, 2))
    gm, result, error = absorb(model)
    assert result.changes == 1
    assert error < 1e-6
    assert get_constant(gm, "0.bias")[1:].tolist() == model[0].bias[1:].tolist()


def test_maxima_for_each_channel_move_along() -> None:
    caps = torch.tensor([9.2, 9.0, 9.0]).view(3, 1, 1)
    model = Calls(
        lambda m, x: m.b(torch.clamp(F.relu(m.a(x)), max=m.caps)),
        a=conv(3, 3, bias=(9.0, 0.0, 12.0)),
        b=conv(3, 2),
        caps=caps,
    )
    gm, result, error = absorb(model)
    assert result.changes == 2
    assert error < 1e-6
    assert "clamp.Tensor(%2, None, @caps_lowered)" in dump(gm)
    lowered = get_constant(gm, "caps_lowered").flatten()
    moved = model.a.bias.detach() - get_constant(gm, "a.bias")
    torch.testing.assert_close(lowered, caps.flatten() - moved)
    assert lowered[2] == 0, "what is always above its maximum is that maximum"


def test_a_chain_takes_and_gives() -> None:
    """The middle layer's bias grows by what it takes before it gives."""
    model = nn.Sequential(
        conv(3, 4, bias=(9.0, 9.0, 0.0, 0.0)),
        nn.ReLU(),
        conv(4, 4, bias=(9.0, 9.0, 9.0, 9.0)),
        nn.ReLU(),
        conv(4, 2, bias=(1.0, 1.0)),
    )
    _, result, error = absorb(model)
    assert result.changes == 6
    assert error < 1e-6


def test_grouped_transposed_and_linear_readers() -> None:
    grouped = nn.Sequential(
        nn.ConvTranspose2d(3, 4, 2), nn.ReLU(), nn.Conv2d(4, 4, 2, groups=4), nn.ReLU(), conv(4, 2)
    )
    linear = Calls(lambda m, x: m.b(F.relu(m.a(x.mean((2, 3))))), a=nn.Linear(3, 4), b=nn.Linear(4, 2))
    with torch.no_grad():
        grouped[0].bias.fill_(9.0)
        grouped[2].bias.fill_(20.0)
        linear.a.bias.fill_(9.0)
    for model, changes in ((grouped, 8), (linear, 4)):
        _, result, error = absorb(model)
        assert result == PassResult(changes)
        assert error < 1e-6


def _reason(model: nn.Module) -> str:
    _, result, _ = absorb(model)
    assert result.changes == 0
    (skip,) = result.skipped
    return skip.reason


def test_what_cannot_take_a_constant() -> None:
    first = conv(3, 3, bias=(9.0, 9.0, 0.0))
    what = "a (conv2d) keeps the bias of 2 channel(s): "
    padded = Calls(lambda m, x: m.b(F.relu(m.a(x))), a=first, b=conv(3, 2, 3, padding=1))
    assert _reason(padded) == what + "conv2d_1 pads with zeros"
    added = Calls(lambda m, x: F.relu(m.a(x)) + x, a=first)
    assert _reason(added) == what + "add (add.Tensor) reads it, not a conv or linear"
    twice = Calls(lambda m, x: (lambda y: m.b(y) + y.sum())(F.relu(m.a(x))), a=first, b=conv(3, 2))
    assert _reason(twice) == what + "relu has 2 users"
    shared = Calls(lambda m, x: m.b(m.b(F.relu(m.a(x)))), a=first, b=conv(3, 3))
    assert _reason(shared) == what + "the weight b.weight of conv2d_1 is shared"


def test_without_statistics_and_batches_nothing_is_known() -> None:
    model = nn.Sequential(conv(3, 3, bias=(9.0, 9.0, 0.0)), nn.ReLU(), conv(3, 2))
    _, result, _ = absorb(model, batches=None)
    reason = "0 (conv2d) neither batch norm statistics nor calibration batches say where its channels lie"
    assert result == PassResult(0, (Skip("conv2d", reason),))


@settings(max_examples=10, deadline=None)
@given(
    biases=st.lists(st.floats(-8, 8), min_size=6, max_size=6),
    upper=st.sampled_from([None, 6.0, 1.5]),
    groups=st.sampled_from([1, 3]),
    lower=st.sampled_from([0.0, 0.0, -1.0]),
)
def test_the_function_stays_on_the_samples(
    biases: list[float], upper: float | None, groups: int, lower: float
) -> None:
    samples = [3 * sample for sample in inputs(IMAGE, IMAGE)]
    model = Calls(
        lambda m, x: m.c(F.relu(m.b(m.a(x).clamp(lower, upper)))),
        a=conv(3, 6, bias=biases),
        b=nn.Conv2d(6, 6, 2, groups=groups),
        c=conv(6, 2),
    )
    gm, result, _ = absorb(model, batches=samples)
    for sample in samples:
        torch.testing.assert_close(gm(sample), model(sample).detach(), rtol=1e-5, atol=1e-5)
    assert result.skipped == ()
