"""EqualizeLayers: what it gains, the two forms of clamps, what it leaves alone; the function stays the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.constants import constants, get_constant, set_constant
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.passes import PassContext, PassResult, Skip, evaluate, run_passes
from fxedge.compiler.quant.channel_stats import ChannelStat, ChannelStats
from fxedge.compiler.quant.layer_options import LayerOptions
from fxedge.passes import Canonicalize, FoldBatchNorm
from fxedge.passes.channels.maps import channel_map
from fxedge.passes.channels.noise import measure_noise
from fxedge.passes.channels.rescale import rescale
from fxedge.passes.equalize_layers import EqualizeLayers
from hypothesis import given, settings
from hypothesis import strategies as st
from random_nets import RandomNet
from real.nets import cifar10_resnet20
from support import Calls, graph, inputs
from torch import Tensor, fx, nn
from torch.nn import functional as F

LAST = "the outputs of c (conv2d_2) keep their scale: a graph output keeps its scale"


def _blocks(act: object = F.relu6) -> Calls:
    """Expand, depthwise, project: the triple of a mobile net, with ranges of channels far apart."""
    torch.manual_seed(0)
    model = Calls(
        lambda m, x: m.c(act(m.b(act(m.a(x))))),  # type: ignore[operator]
        a=nn.Conv2d(3, 8, 1),
        b=nn.Conv2d(8, 8, 3, padding=1, groups=8),
        c=nn.Conv2d(8, 4, 1),
    )
    with torch.no_grad():
        apart = torch.tensor([0.02, 0.1, 0.5, 1, 1, 4, 9, 20]).view(-1, 1, 1, 1)
        model.a.weight *= apart  # type: ignore[union-attr, operator]
        model.b.weight /= apart  # type: ignore[union-attr, operator]
        model.c.weight *= apart.view(1, -1, 1, 1)  # type: ignore[union-attr, operator]
    return model


def _captured(model: nn.Module, x: Tensor) -> fx.GraphModule:
    gm = capture(model.eval(), (x,))
    run_passes(gm, [Canonicalize(), FoldBatchNorm()])
    return gm


def _run(gm: fx.GraphModule, item: EqualizeLayers, ctx: PassContext) -> PassResult:
    """The pass, its promise checked; a second run must change nothing."""
    result = run_passes(gm, [item], ctx)["equalize-layers"]
    assert result.rolled_back is None
    text = dump(gm)
    assert run_passes(gm, [item], ctx)["equalize-layers"].changes == 0
    assert dump(gm) == text
    return result


def _per_tensor(node: fx.Node) -> LayerOptions:
    return LayerOptions(per_tensor=True)


def _noise(gm: fx.GraphModule, x: Tensor) -> float:
    channels = channel_map(gm)
    zeros = torch.zeros(channels.count, dtype=torch.float64)
    return measure_noise(gm, channels, [(x,)], _per_tensor, 0).total(zeros)


def test_a_clamp_gets_a_bound_for_each_channel() -> None:
    (x,) = inputs((4, 3, 8, 8))
    gm = _captured(_blocks(), x)
    expected, before = gm(x), _noise(gm, x)
    result = _run(gm, EqualizeLayers(), PassContext(example_inputs=(x,)))
    assert dump(gm) == graph("""
        %0 = input x
        %1 = conv2d.default(%0, @a.weight, @a.bias, [1, 1], [0, 0], [1, 1], 1)
        %2 = relu.default(%1)
        %3 = clamp.Tensor(%2, None, @hardtanh_default_max)
        %4 = conv2d.default(%3, @b.weight, @b.bias, [1, 1], [1, 1], [1, 1], 8)
        %5 = relu.default(%4)
        %6 = clamp.Tensor(%5, None, @hardtanh_default_1_max)
        %7 = conv2d.default(%6, @c.weight, @c.bias, [1, 1], [0, 0], [1, 1], 1)
        return %7""")
    bound = get_constant(gm, "hardtanh_default_max")
    assert bound is not None
    assert bound.shape == (8, 1, 1)
    torch.testing.assert_close(gm(x), expected, rtol=1e-5, atol=1e-5)
    assert _noise(gm, x) < before / 20
    assert (result.changes, result.skipped) == (5, (Skip("conv2d_2", LAST),))
    assert [note.node for note in result.notes] == ["x", "hardtanh_default", "hardtanh_default_1"]
    assert result.notes[0].reason.startswith("the noise expected of quantization falls to ")
    assert result.notes[1].reason.startswith("hardtanh_default has a bound for each channel, divided by 0.")


def test_powers_of_two_change_no_bit() -> None:
    (x,) = inputs((4, 3, 8, 8))
    gm = _captured(_blocks(), x)
    expected, before = gm(x), _noise(gm, x)
    _run(gm, EqualizeLayers(powers_of_two=True), PassContext(example_inputs=(x,)))
    assert torch.equal(gm(x), expected)
    assert _noise(gm, x) < before / 10


def test_undoes_a_rescale_of_residual_and_concat_regions() -> None:
    torch.manual_seed(0)
    model = Calls(
        lambda m, x: m.e(torch.cat([m.d(y := F.relu(m.a(x)) + m.c(F.relu(m.b(x)))), F.leaky_relu(y)], 1)),
        a=nn.Conv2d(3, 8, 1),
        b=nn.Conv2d(3, 6, 3, padding=1),
        c=nn.Conv2d(6, 8, 1),
        d=nn.Conv2d(8, 8, 1),
        e=nn.Conv2d(16, 4, 1),
    )
    (x,) = inputs((4, 3, 8, 8))
    gm = _captured(model, x)
    expected, before = gm(x), _noise(gm, x)
    channels = channel_map(gm)
    factors = 2.0 ** torch.randint(-5, 6, (channels.count,), generator=torch.Generator().manual_seed(0)).double()
    rescale(gm, channels, torch.where(channels.free, factors, 1.0))
    gm.recompile()
    assert _noise(gm, x) > 50 * before
    _run(gm, EqualizeLayers(), PassContext(example_inputs=(x,)))
    torch.testing.assert_close(gm(x), expected, rtol=1e-5, atol=1e-5)
    assert _noise(gm, x) < before


def test_rows_cost_nothing_where_each_has_its_scale() -> None:
    (x,) = inputs((4, 3, 8, 8))
    gm = _captured(Calls(lambda m, x: m.b(m.a(x)), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 1)), x)
    with torch.no_grad():
        weight = get_constant(gm, "a.weight")
        assert weight is not None
    channels = channel_map(gm)
    factors = torch.ones(channels.count, dtype=torch.float64)
    factors[channels.layers[0].out_ids] = torch.tensor([1.0, 1e-2, 1.0, 1.0], dtype=torch.float64)
    rescale(gm, channels, factors)
    gm.recompile()
    _run(gm, EqualizeLayers(per_tensor_weights=False), PassContext(example_inputs=(x,)))
    held = evaluate(fx.GraphModule(gm, _until(gm, "conv2d")), (x,))[0].abs().amax((0, 2, 3))
    assert held.max() < 4 * held.min(), "the activation's channels are of one size again"


def _until(gm: fx.GraphModule, name: str) -> fx.Graph:
    cut = fx.Graph()
    seen: dict[fx.Node, fx.Node] = {}
    for node in gm.graph.nodes:
        seen[node] = cut.node_copy(node, seen.__getitem__)
        if node.name == name:
            cut.output(seen[node])
            return cut
    raise KeyError(name)


# --- one bound for all channels -------------------------------------------------------------------------------


def _pinned(model: nn.Module, ctx: PassContext) -> tuple[fx.GraphModule, PassResult]:
    gm = _captured(model, ctx.example_inputs[0])
    expected = evaluate(gm, ctx.example_inputs)
    result = _run(gm, EqualizeLayers(clamp="pinned"), ctx)
    torch.testing.assert_close(evaluate(gm, ctx.example_inputs), expected, rtol=1e-5, atol=1e-5)
    return gm, result


def _reaching(*low: int) -> Calls:
    """The triple where the first activation's channels reach 6, those of `low` aside."""
    model = _blocks()
    with torch.no_grad():
        model.a.weight.normal_().mul_(6)  # type: ignore[union-attr, operator]
        for channel in low:
            model.a.weight[channel] *= 0.01  # type: ignore[union-attr, index, operator]
            model.a.bias[channel] = 0.1  # type: ignore[union-attr, index, operator]
    return model


def test_channels_that_reach_the_bound_are_scaled_together() -> None:
    (x,) = inputs((4, 3, 8, 8))
    gm, result = _pinned(_reaching(1, 5), PassContext(example_inputs=(x,), batches=lambda: iter([(x,)])))
    text = dump(gm)
    assert "clamp.Tensor" not in text
    assert "hardtanh.default(%1, 0, " in text
    reason = "2 of 8 channels never reach the bound 6 (8 samples and a quarter more)"
    assert result.notes[1] == Skip(
        "hardtanh_default", f"hardtanh_default keeps one bound: {reason} and are scaled apart from the others"
    )


def test_a_clamp_that_no_channel_reaches_becomes_relu() -> None:
    (x,) = inputs((4, 3, 8, 8))
    gm, result = _pinned(_reaching(*range(8)), PassContext(example_inputs=(x,), batches=lambda: iter([(x,)])))
    assert "%2 = relu.default(%1)\n%3 = conv2d" in dump(gm)
    evidence = "no channel reaches it (8 samples and a quarter more)"
    assert result.notes[1] == Skip("hardtanh_default", f"hardtanh_default lost its bound 6: {evidence}")


def test_batch_norm_statistics_are_evidence() -> None:
    (x,) = inputs((4, 3, 8, 8))
    mean = torch.tensor([0.0, 0, 0, 0, 0, 0, 0, 3])
    stats = ChannelStats({"a.weight": ChannelStat(mean, torch.full((8,), 0.9))})
    gm, result = _pinned(_reaching(*range(8)), PassContext(example_inputs=(x,), channel_stats=stats))
    reason = "7 of 8 channels never reach the bound 6 (6 standard deviations of its batch norm)"
    assert (
        result.notes[1].reason
        == f"hardtanh_default keeps one bound: {reason} and are scaled apart from the others"
    )
    assert "hardtanh.default(%1, 0, " in dump(gm)
    common = 3 / stats.by_weight["a.weight"].mean[7]
    needed = (0.0 + 6 * stats.by_weight["a.weight"].std[:7]) * common
    assert bool((needed <= 6 * 1.0001).all())


def test_without_evidence_all_channels_are_scaled_together() -> None:
    (x,) = inputs((4, 3, 8, 8))
    gm = _captured(_blocks(), x)
    result = _run(gm, EqualizeLayers(clamp="pinned"), PassContext(example_inputs=(x,)))
    assert "clamp.Tensor" not in dump(gm)
    assert len(result.notes) <= 1


# --- what is left alone ---------------------------------------------------------------------------------------


def test_needs_samples() -> None:
    gm = _captured(_blocks(), inputs((4, 3, 8, 8))[0])
    result = run_passes(gm, [EqualizeLayers()])["equalize-layers"]
    assert result == PassResult(0, (Skip("x", "without samples nothing is known of what channels hold"),))


def test_a_graph_without_free_channels() -> None:
    (x,) = inputs((4, 3, 8, 8))
    gm = _captured(_blocks(F.hardswish), x)
    result = run_passes(gm, [EqualizeLayers()], PassContext(example_inputs=(x,)))["equalize-layers"]
    assert result == PassResult(
        0,
        (
            Skip(
                "conv2d",
                "the outputs of a (conv2d) keep their scale: "
                "hardswish.default of hardswish does not scale with its input",
            ),
            Skip(
                "conv2d_1",
                "the outputs of b (conv2d_1) keep their scale: "
                "hardswish.default of hardswish_1 does not scale with its input",
            ),
            Skip("conv2d_2", LAST),
        ),
    )


def test_dead_channels_divide_nothing_by_zero() -> None:
    (x,) = inputs((4, 3, 8, 8))
    model = _blocks()
    with torch.no_grad():
        model.a.weight[0] = 0  # type: ignore[union-attr, index]
        model.a.bias[0] = 0  # type: ignore[union-attr, index]
        model.a.weight[1] = 1e-19  # type: ignore[union-attr, index]
        model.b.weight[2] = 0  # type: ignore[union-attr, index]
        model.c.weight[:, 3] = 0  # type: ignore[union-attr, index]
    gm = _captured(model, x)
    result = _run(gm, EqualizeLayers(), PassContext(example_inputs=(x,)))
    assert result.changes == 5
    for name in ("a.weight", "b.weight", "c.weight", "hardtanh_default_max"):
        value = get_constant(gm, name)
        assert value is not None
        assert bool(value.isfinite().all())


def test_weights_at_the_ends_of_float32_keep_their_scale() -> None:
    (x,) = inputs((4, 3, 8, 8))
    model = _blocks()
    with torch.no_grad():
        model.a.weight[6] = 1e-38  # type: ignore[union-attr, index]
    gm = _captured(model, x)
    result = _run(gm, EqualizeLayers(), PassContext(example_inputs=(x,)))
    reason = "a (conv2d) has weights at the ends of float32 (1e-38)"
    assert result.skipped == (Skip("conv2d", f"1 channels keep their scale: {reason}"), Skip("conv2d_2", LAST))
    weight = get_constant(gm, "a.weight")
    assert weight is not None
    assert bool((weight[6] == 1e-38).all())


def test_outputs_that_are_all_zero() -> None:
    (x,) = inputs((4, 3, 8, 8))
    model = _blocks()
    nn.init.zeros_(model.b.weight)  # type: ignore[union-attr, arg-type]
    nn.init.zeros_(model.b.bias)  # type: ignore[union-attr, arg-type]
    nn.init.zeros_(model.c.weight)  # type: ignore[union-attr, arg-type]
    gm = _captured(model, x)
    result = run_passes(gm, [EqualizeLayers()], PassContext(example_inputs=(x,)))["equalize-layers"]
    assert result.skipped[-1] == Skip("x", "the noise expected of quantization is 0")
    assert result.changes == 0


def test_the_gain_of_a_layer_norm_takes_up_factors() -> None:
    (x,) = inputs((4, 8, 16))
    torch.manual_seed(0)
    model = Calls(lambda m, x: m.b(m.a(x)), a=nn.LayerNorm(16), b=nn.Linear(16, 4))
    with torch.no_grad():
        model.a.weight[3] = 200  # type: ignore[union-attr, index]
        model.b.weight[:, 3] /= 200  # type: ignore[union-attr, index, operator]
    gm = _captured(model, x)
    expected = gm(x)
    _run(gm, EqualizeLayers(per_tensor_weights=False), PassContext(example_inputs=(x,)))
    torch.testing.assert_close(gm(x), expected, rtol=1e-5, atol=1e-5)
    gain = get_constant(gm, "a.weight")
    assert gain is not None
    assert gain.max() < 10 * gain.median()


def test_outputs_without_derivatives() -> None:
    (x,) = inputs((4, 3, 8, 8))
    model = Calls(lambda m, x: (m.b(F.relu(m.a(x))).argmax(1), x * 2), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 1))
    gm = _captured(model, x)
    result = run_passes(gm, [EqualizeLayers()], PassContext(example_inputs=(x,)))["equalize-layers"]
    assert result.changes == 0
    assert result.skipped[-1] == Skip("x", "the noise expected of quantization is 0")


def test_statistics_follow() -> None:
    (x,) = inputs((4, 3, 8, 8))
    gm = _captured(_blocks(), x)
    stats = ChannelStats({"a.weight": ChannelStat(torch.ones(8), torch.full((8,), 2.0))})
    before = get_constant(gm, "a.weight")
    _run(gm, EqualizeLayers(), PassContext(example_inputs=(x,), channel_stats=stats))
    after = get_constant(gm, "a.weight")
    assert before is not None
    assert after is not None
    factors = (before / after).flatten(1)[:, 0]
    torch.testing.assert_close(stats.by_weight["a.weight"].mean, 1 / factors)
    torch.testing.assert_close(stats.by_weight["a.weight"].std, 2 / factors)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 10), st.booleans())
def test_random_nets_compute_the_same(seed: int, length: int, exact: bool) -> None:
    net = RandomNet(seed, length).eval()
    gm = capture(net, net.examples(2))
    run_passes(gm, [Canonicalize(), FoldBatchNorm()])
    ctx = PassContext(example_inputs=net.examples(3))
    report = run_passes(gm, [EqualizeLayers(powers_of_two=exact)], ctx)
    assert report["equalize-layers"].rolled_back is None
    if exact:
        assert report.max_error.get("equalize-layers", 0.0) == 0.0


def test_evidence_covers_the_example_inputs() -> None:
    (x,) = inputs((4, 3, 8, 8))
    gm = _captured(_reaching(1, 5), x)
    ctx = PassContext(example_inputs=(x,), batches=lambda: iter([(x * 1e-3,)]))
    result = _run(gm, EqualizeLayers(clamp="pinned"), ctx)
    assert "2 of 8 channels never reach the bound 6 (8 samples" in result.notes[1].reason


def test_real_resnet20_survives_a_rescale(shared_data: Path) -> None:
    """Weights rounded to 127 steps of one scale: chance level after the rescale, as before it once equalized."""
    if not (shared_data / "cifar10_resnet20" / "weights.safetensors").is_file():
        pytest.skip("needs cifar10_resnet20/weights.safetensors, which is not here")
    (x,) = inputs((32, 3, 32, 32))
    gm = _captured(cifar10_resnet20(), x)
    expected = gm(x)
    channels = channel_map(gm)
    factors = 2.0 ** torch.randint(-5, 6, (channels.count,), generator=torch.Generator().manual_seed(0)).double()
    rescale(gm, channels, torch.where(channels.free, factors, 1.0))
    gm.recompile()
    assert torch.equal(gm(x), expected)
    assert _snr_of_rounded(gm, x, expected) < 3
    result = _run(gm, EqualizeLayers(), PassContext(example_inputs=(x,)))
    assert result.changes == 20
    assert _snr_of_rounded(gm, x, expected) > 20


def _snr_of_rounded(gm: fx.GraphModule, x: Tensor, expected: Tensor) -> float:
    """Signal to noise in dB with each weight on 127 steps of its largest magnitude; `gm` is as before."""
    weights = {name: value for name, value in constants(gm).items() if value.ndim > 1}
    for name, weight in weights.items():
        step = weight.abs().max() / 127
        set_constant(gm, name, torch.round(weight / step) * step)
    noise = gm(x) - expected
    for name, weight in weights.items():
        set_constant(gm, name, weight)
    return float(10 * torch.log10(expected.square().sum() / noise.square().sum()))
