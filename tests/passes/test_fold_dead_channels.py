"""FoldDeadChannels: constants into biases, powers of two across padding, what stays and why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.constants import constants, get_constant
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.passes import (
    CLOSE_TOLERANCE,
    PassContext,
    PassReport,
    PassResult,
    Skip,
    evaluate,
    relative_error,
    run_passes,
)
from fxedge.compiler.quant.channel_stats import ChannelStat, ChannelStats
from fxedge.passes import Canonicalize, FoldBatchNorm, FuseActivation
from fxedge.passes.fold_dead_channels import FoldDeadChannels
from hypothesis import given, settings
from hypothesis import strategies as st
from random_nets import RandomNet
from real.nets import mobilenet_v2_tf
from support import Calls, graph, inputs
from torch import Tensor, fx, nn

IMAGE = (2, 3, 6, 6)
TINY = 1e-19


@torch.no_grad()
def plant(layer: nn.Module, channel: int, bias: float, weight: float = TINY) -> nn.Module:
    """`layer` (with a bias) whose output channel is about `bias`, whatever it reads."""
    axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    layer.weight.select(axis, channel).fill_(weight)
    layer.bias[channel] = bias
    return layer


def conv(channels: int, out: int, kernel: int = 1, **options: object) -> nn.Conv2d:
    torch.manual_seed(channels + out + kernel)
    return nn.Conv2d(channels, out, kernel, **options)  # type: ignore[arg-type]


def fold(
    model: nn.Module, shape: tuple[int, ...] = IMAGE, stats: ChannelStats | None = None
) -> tuple[fx.GraphModule, PassResult, float]:
    """The graph after the pass, what it did and by how much outputs moved; a second run must change nothing."""
    gm, report = _apply(model.eval(), inputs(shape), stats)
    result = report["fold-dead-channels"]
    return gm, result, report.max_error.get("fold-dead-channels", 0.0)


def _apply(
    model: nn.Module, example: tuple[Tensor, ...], stats: ChannelStats | None = None
) -> tuple[fx.GraphModule, PassReport]:
    gm = capture(model, example)
    run_passes(gm, [Canonicalize(), FoldBatchNorm(), FuseActivation()])
    ctx = PassContext(example_inputs=example, channel_stats=stats)
    report = run_passes(gm, [FoldDeadChannels()], ctx)
    assert report["fold-dead-channels"].rolled_back is None
    before = constants(gm)
    again = run_passes(gm, [FoldDeadChannels()], ctx)["fold-dead-channels"]
    assert again.changes == 0
    assert all(torch.equal(value, before[name]) for name, value in constants(gm).items())
    return gm, report


def test_zero_leaves_weights_of_zero_even_through_padding() -> None:
    first = plant(conv(3, 4), 1, bias=-0.5)
    second = conv(4, 5, 3, padding=1, bias=False)
    with torch.no_grad():
        second.weight[:, 1] = 1000.0
    gm, result, error = fold(nn.Sequential(first, nn.ReLU(), second))
    assert result == PassResult(2)
    assert error == 0.0
    assert dump(gm) == graph("""
        %0 = input input
        %1 = conv2d.default(%0, @0.weight, @0.bias, [1, 1], [0, 0], [1, 1], 1)
        %2 = relu.default(%1)
        %3 = conv2d.default(%2, @2.weight, None, [1, 1], [1, 1], [1, 1], 1)
        return %3""")
    found = constants(gm)
    assert found["0.weight"][1].abs().max() == 0
    assert found["0.bias"][1] == 0
    assert found["2.weight"][:, 1].abs().max() == 0
    live = [0, 2, 3]
    assert torch.equal(found["0.weight"][live], first.weight[live])
    assert torch.equal(found["2.weight"][:, live], second.weight[:, live])
    assert second.weight.detach().abs().max() == 1000.0, "the model given was changed"


def test_a_constant_goes_into_the_bias_and_is_given_no_more() -> None:
    second = conv(4, 5, 3, bias=False)
    gm, result, error = fold(nn.Sequential(plant(conv(3, 4), 2, bias=0.75), nn.ReLU6(), second))
    assert result == PassResult(3)
    assert error < 1e-6
    assert dump(gm) == graph("""
        %0 = input input
        %1 = conv2d.default(%0, @0.weight, @0.bias, [1, 1], [0, 0], [1, 1], 1)
        %2 = hardtanh.default(%1, 0, 6)
        %3 = conv2d.default(%2, @2.weight, @2.bias, [1, 1], [0, 0], [1, 1], 1)
        return %3""")
    found = constants(gm)
    torch.testing.assert_close(found["2.bias"], 0.75 * second.weight[:, 2].sum((1, 2)))
    assert found["2.weight"][:, 2].abs().max() == 0
    assert found["0.weight"][2].abs().max() == 0
    assert found["0.bias"][2] == 0


def test_constants_spread_along_a_chain() -> None:
    """Zero into a padded depthwise conv, its bias through the activation, that into the pointwise conv."""
    depthwise = conv(4, 4, 3, padding=1, groups=4)
    with torch.no_grad():
        depthwise.weight[1] = 56.0
        depthwise.bias[1] = 0.5
    pointwise = conv(4, 2)
    model = nn.Sequential(plant(conv(3, 4), 1, bias=-1.0), nn.ReLU6(), depthwise, nn.Hardswish(), pointwise)
    gm, result, error = fold(model)
    assert result == PassResult(4)  # the first row, the depthwise weight, its bias, the pointwise column
    assert error < 1e-6
    found = constants(gm)
    assert found["2.weight"].abs().max() < 1
    assert found["2.bias"][1] == 0
    constant = F.hardswish(torch.tensor(0.5))
    torch.testing.assert_close(found["4.bias"], pointwise.bias + constant * pointwise.weight[:, 1, 0, 0])


def test_a_channel_that_its_activation_holds_at_a_bound() -> None:
    first = conv(3, 4)
    with torch.no_grad():
        first.bias[0], first.bias[3] = -1000.0, 1000.0
    second = conv(4, 2)
    gm, result, error = fold(nn.Sequential(first, nn.ReLU6(), second))
    assert result == PassResult(5)  # two rows, two columns, and the bias that held 6
    assert error < 1e-6
    found = constants(gm)
    assert found["0.weight"][[0, 3]].abs().max() == 0
    assert found["0.bias"][[0, 3]].tolist() == [0.0, 0.0]
    torch.testing.assert_close(found["2.bias"], second.bias + 6 * second.weight[:, 3, 0, 0])


def test_hardswish_is_zero_below_minus_three() -> None:
    first = conv(3, 4)
    with torch.no_grad():
        first.bias[2] = -1000.0
    gm, result, error = fold(nn.Sequential(first, nn.Hardswish(), conv(4, 4, 3, padding=1)))
    assert result == PassResult(2)
    assert error == 0.0
    assert get_constant(gm, "0.bias")[2] == 0


def _depthwise(padded: float) -> nn.Conv2d:
    """Depthwise and padded; channel 1 has weights up to `padded`, the others up to 1."""
    layer = conv(4, 4, 3, padding=1, groups=4)
    with torch.no_grad():
        layer.weight.uniform_(-1, 1)
        layer.weight[:, 0, 0, 0] = torch.tensor([1.0, padded, 1.0, 1.0])
    return layer


def test_padding_trades_a_power_of_two_within_the_clamp() -> None:
    model = nn.Sequential(plant(conv(3, 4), 1, bias=0.09), nn.ReLU6(), _depthwise(56.0))
    gm, result, error = fold(model)
    assert result == PassResult(2)  # its row becomes zero, and 2**6 moves
    assert error == 0.0
    found = constants(gm)
    assert found["0.bias"][1] == model[0].bias[1] * 64
    assert torch.equal(found["2.weight"][1], model[2].weight[1] / 64)
    assert found["0.weight"][1].abs().max() == 0


def test_padding_trades_no_more_than_the_clamp_allows() -> None:
    model = nn.Sequential(plant(conv(3, 4), 1, bias=2.3), nn.ReLU6(), nn.ZeroPad2d((0, 1, 0, 1)), _depthwise(12.0))
    model[3].padding = (0, 0)
    gm, result, error = fold(model)
    assert result == PassResult(2)
    assert error == 0.0
    assert get_constant(gm, "0.bias")[1] == model[0].bias[1] * 2
    assert torch.equal(get_constant(gm, "3.weight")[1], model[3].weight[1] / 2)


def test_without_a_clamp_the_other_channels_are_the_limit() -> None:
    first = plant(conv(3, 4), 1, bias=0.25)
    gm, result, error = fold(nn.Sequential(first, nn.ReLU(), _depthwise(1000.0)))
    assert result == PassResult(2)
    assert error == 0.0
    largest = float(first(*inputs(IMAGE))[:1, [0, 2, 3]].detach().abs().max())
    constant = float(get_constant(gm, "0.bias")[1])
    assert constant <= largest < 2 * constant


def test_a_large_constant_shrinks_as_far_as_the_weights_allow() -> None:
    depthwise = _depthwise(2.0**-6)
    with torch.no_grad():
        depthwise.weight[1] = 2.0**-6
    gm, result, error = fold(nn.Sequential(plant(conv(3, 4), 1, bias=512.0), nn.ReLU(), depthwise))
    assert result == PassResult(2)
    assert error == 0.0
    assert get_constant(gm, "0.bias")[1] == 8
    assert get_constant(gm, "2.weight")[1].max() == 1


def test_a_shrunk_constant_stays_within_its_clamp() -> None:
    depthwise = _depthwise(2.0**-6)
    with torch.no_grad():
        depthwise.weight[1] = 2.0**-6
    model = Calls(
        lambda m, x: m.depthwise(m.first(x).clamp(min=400.0)),
        first=plant(conv(3, 4), 1, bias=512.0),
        depthwise=depthwise,
    )
    gm, _, _ = fold(model)
    assert get_constant(gm, "first.bias")[1] == 512
    assert get_constant(gm, "depthwise.weight")[1].max() == 2.0**-6


Build = Callable[[], nn.Module]

READERS: dict[str, tuple[Build, int]] = {
    "grouped": (lambda: nn.Sequential(plant(conv(3, 4), 1, 0.5), nn.ReLU(), conv(4, 6, 3, groups=2)), 3),
    "transposed": (lambda: nn.Sequential(plant(nn.ConvTranspose2d(3, 4, 2), 1, 0.5), nn.ReLU(), conv(4, 2)), 3),
    "into transposed": (
        lambda: nn.Sequential(plant(conv(3, 4), 1, -0.5), nn.ReLU(), nn.ConvTranspose2d(4, 2, 3)),
        2,
    ),
    "flattened": (
        lambda: nn.Sequential(plant(conv(3, 4), 1, 0.5), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)),
        1 + 36,  # the bias stays: what reads it is a view
    ),
    "linear": (
        lambda: Calls(
            lambda m, x: m.b(F.relu(m.a(x.mean((2, 3))))), a=plant(nn.Linear(3, 4), 1, 0.5), b=nn.Linear(4, 2)
        ),
        3,
    ),
    "pooled": (
        lambda: nn.Sequential(
            plant(conv(3, 4), 1, 0.5), nn.ReLU(), nn.MaxPool2d(3, 1), nn.AvgPool2d(2), conv(4, 2)
        ),
        2,
    ),
    "concat": (
        lambda: Calls(
            lambda m, x: m.c(torch.cat([F.relu(m.a(x)), F.relu(m.b(x))], 1)),
            a=plant(conv(3, 4), 1, -0.5),
            b=plant(conv(3, 5), 2, 0.5),
            c=conv(9, 2),
        ),
        4,
    ),
    "residual": (
        lambda: Calls(
            lambda m, x: m.c(F.relu(m.a(x)) + F.relu(m.b(x))),
            a=plant(conv(3, 4), 1, -0.5),
            b=plant(conv(3, 4), 1, 0.5),
            c=conv(4, 2),
        ),
        3,
    ),
    "residual with a live channel": (
        lambda: Calls(lambda m, x: m.c(F.relu(m.a(x)) + x), a=plant(conv(3, 3), 1, -0.5), c=conv(3, 2)),
        1,
    ),
    "squeeze-excite of a zero channel": (
        lambda: Calls(
            lambda m, x: (lambda y: m.d(y * F.hardsigmoid(m.c(F.relu(m.b(y.mean((2, 3), True)))))))(
                F.relu(m.a(x))
            ),
            a=plant(conv(3, 4), 1, -0.5),
            b=plant(conv(4, 6), 2, -0.1),
            c=plant(conv(6, 4), 3, 3.5, weight=0.0),
            d=conv(4, 2),
        ),
        5,  # rows of a and b, columns of b, c and d
    ),
    "weighted by nothing": (
        lambda: nn.Sequential(conv(3, 4), nn.ReLU(), _without_column(conv(4, 2, 3, padding=1), 1)),
        1,
    ),
    "without bias": (lambda: nn.Sequential(_without_row(conv(3, 4, bias=False), 1), nn.ReLU(), conv(4, 2)), 1),
}


@torch.no_grad()
def _without_column(layer: nn.Conv2d, channel: int) -> nn.Conv2d:
    layer.weight[:, channel] = 0
    return layer


@torch.no_grad()
def _without_row(layer: nn.Conv2d, channel: int) -> nn.Conv2d:
    layer.weight[channel] = 0
    return layer


@pytest.mark.parametrize("name", READERS)
def test_readers(name: str) -> None:
    build, changes = READERS[name]
    torch.manual_seed(0)
    _, result, error = fold(build())
    assert result.changes == changes
    assert error < 1e-6


def _skips(model: nn.Module, shape: tuple[int, ...] = IMAGE) -> list[str]:
    return [skip.reason for skip in fold(model, shape)[1].skipped]


def test_a_constant_that_does_not_scale_stays_before_padding() -> None:
    model = nn.Sequential(plant(conv(3, 4), 1, 0.5), nn.Hardswish(), conv(4, 2, 3, padding=1))
    assert _skips(model) == [
        "0 (conv2d) gives 1 constant channel(s) other than 0 as they were: "
        "hardswish (hardswish.default) does not scale"
    ]


def test_a_constant_that_others_read_stays() -> None:
    model = Calls(lambda m, x: m.b(F.relu(m.a(x)) + x), a=plant(conv(3, 3), 1, 0.5), b=conv(3, 2, 3, padding=1))
    assert _skips(model) == [
        "a (conv2d) gives 1 constant channel(s) other than 0 as they were: add (add.Tensor) reads it"
    ]


def test_pads_that_are_not_zero_or_not_spatial_stay() -> None:
    ones = nn.Sequential(plant(conv(3, 4), 1, 0.5), nn.ReLU(), nn.ConstantPad2d(1, 1.0), conv(4, 2, 3))
    assert _skips(ones) == [
        "0 (conv2d) gives 1 constant channel(s) other than 0 as they were: "
        "constant_pad_nd_default (constant_pad_nd.default) reads it"
    ]
    deep = Calls(
        lambda m, x: m.b(F.pad(F.relu(m.a(x)), (1, 1, 0, 0, 0, 1))), a=plant(conv(3, 4), 1, 0.5), b=conv(5, 2)
    )
    assert _skips(deep) == [
        "a (conv2d) gives 1 constant channel(s) other than 0 as they were: "
        "constant_pad_nd_default pads its channels"
    ]


def test_shared_and_computed_weights_stay() -> None:
    shared = Calls(lambda m, x: m.b(F.relu(m.b(F.relu(m.a(x))))), a=plant(conv(3, 4), 1, -0.5), b=conv(4, 4))
    gm, result, _ = fold(shared)
    reason = "(conv2d_1) reads 1 constant channel(s), but the weight b.weight of conv2d_1 is shared"
    assert result == PassResult(1, (Skip("conv2d_1", f"b {reason}"),))
    assert torch.equal(get_constant(gm, "b.weight"), shared.b.weight)
    computed = Calls(
        lambda m, x: F.conv2d(F.relu(m.a(x)), m.w * x.mean()),
        a=plant(conv(3, 4), 1, -0.5),
        w=torch.rand(2, 4, 1, 1),
    )
    assert _skips(computed) == [
        "conv2d_1 reads 1 constant channel(s), but the weight of conv2d_1 is computed, not constant"
    ]
    twice = Calls(lambda m, x: F.relu(m.a(x)) + m.a(x + 1), a=plant(conv(3, 4), 1, -0.5))
    assert _skips(twice) == [
        f"a ({name}) gives 1 constant channel(s), but the weight a.weight of {name} is shared"
        for name in ("conv2d", "conv2d_1")
    ]


def test_without_example_inputs_nothing_is_done() -> None:
    gm = capture(nn.Sequential(plant(conv(3, 4), 1, -0.5), nn.ReLU()), inputs(IMAGE))
    assert run_passes(gm, [FoldDeadChannels()])["fold-dead-channels"] == PassResult(
        0, (Skip("input_1", "without example inputs nothing is known of what channels hold"),)
    )


def test_a_channel_that_only_the_examples_find_silent_is_kept() -> None:
    """Its bias holds it below zero on the examples, but not on inputs sixteen times as large."""
    first = conv(3, 4)
    example = inputs(IMAGE)
    with torch.no_grad():
        first.bias[1] -= 1.5 * first(example[0])[:, 1].max()
    assert F.relu(first(example[0]))[:, 1].max() == 0
    _, result, _ = fold(nn.Sequential(first, nn.ReLU(), conv(4, 2)))
    assert result == PassResult(0)


def test_an_activation_that_is_zero_on_the_examples_proves_nothing() -> None:
    model = Calls(lambda m, x: m.b(F.relu(x - 10.0)), b=conv(3, 2))
    assert fold(model)[1] == PassResult(0)


def test_statistics_follow() -> None:
    stats = ChannelStats({"0.weight": ChannelStat(torch.full((4,), 0.5), torch.ones(4))})
    model = nn.Sequential(plant(plant(conv(3, 4), 1, 0.25), 2, -1.0), nn.ReLU6(), _depthwise(8.0))
    fold(model, stats=stats)
    stat = stats.by_weight["0.weight"]
    assert stat.mean.tolist() == [0.5, 2.0, 0.0, 0.5]
    assert stat.std.tolist() == [1.0, 0.0, 0.0, 1.0]


@torch.no_grad()
def _with_dead_channels(net: nn.Module, seed: int) -> nn.Module:
    """Some channels of every conv and linear get rows of next to nothing."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            rows = torch.rand(module.weight.shape[0], generator=generator) < 0.4
            module.weight[rows] = TINY
    return net


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), length=st.integers(2, 9))
def test_the_function_stays_on_random_nets(seed: int, length: int) -> None:
    net = RandomNet(seed, length)
    example = net.examples(2)
    gm = capture(_with_dead_channels(net, seed), example)
    run_passes(gm, [Canonicalize(), FoldBatchNorm(), FuseActivation()])
    others = [example, net.examples(2), tuple(3 * x if x.is_floating_point() else x for x in net.examples(2))]
    expected = [evaluate(gm, values) for values in others]
    ctx = PassContext(example_inputs=example)
    FoldDeadChannels().run(gm, ctx)
    gm.recompile()
    for values, outputs in zip(others, expected, strict=True):
        assert relative_error(evaluate(gm, values), outputs) <= CLOSE_TOLERANCE, "\n".join(net.text)
    assert FoldDeadChannels().run(gm, ctx).changes == 0


def test_real_mobilenet_v2_tf(shared_data: Path) -> None:
    """Seven channels that are always 0, two other constants that feed padded depthwise layers; not a bit moves."""
    if not (shared_data / "mobilenet_v2_tf" / "weights.safetensors").is_file():
        pytest.skip(f"needs the weights of mobilenet_v2_tf in {shared_data}, which are not here")
    gm = capture(mobilenet_v2_tf(), inputs((2, 3, 64, 64)))
    run_passes(gm, [Canonicalize()])
    before = constants(gm)
    report = run_passes(gm, [FoldDeadChannels()], PassContext(example_inputs=inputs((2, 3, 64, 64))))
    assert report["fold-dead-channels"].skipped == ()
    assert report.max_error["fold-dead-channels"] == 0.0
    after = constants(gm)
    silenced = {
        name: [i for i, row in enumerate(after[name]) if not row.any() and 0 < before[name][i].abs().max() < 1e-8]
        for name in ("features.0.1.weight", "features.3.conv.0.0.weight", "features.12.conv.0.0.weight")
    }
    assert list(silenced.values()) == [[3, 7, 11, 12, 13, 19, 28], [130], [259]]
    largest = {
        name: (float(before[name].abs().max()), float(after[name].abs().max()))
        for name in ("features.1.conv.0.0.weight", "features.3.conv.1.0.weight", "features.12.conv.1.0.weight")
    }
    assert list(largest.values()) == [
        pytest.approx((56.45, 2.95), abs=0.01),
        pytest.approx((34.49, 10.74), abs=0.01),
        pytest.approx((13.36, 6.68), abs=0.01),
    ]
    assert after["features.12.conv.0.0.bias"][259] == 2 * before["features.12.conv.0.0.bias"][259]
