import dataclasses

import pytest
import torch
from fxedge.compiler.ir.constants import constant, constants
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.ops import OPS, aten
from fxedge.compiler.ir.passes import PassContext, PassResult, Skip, evaluate, relative_error, run_passes
from fxedge.compiler.quant.channel_stats import ChannelStat, ChannelStats, measure_channels
from fxedge.compiler.quant.layer_options import LayerOptions
from fxedge.compiler.quant.qparams import dequantize, quantize
from fxedge.passes.canonicalize import Canonicalize
from fxedge.passes.insert_qdq import weight_qparams
from fxedge.passes.split_outliers import SplitOutliers
from random_nets import RandomNet
from support import Calls, apply, graph, inputs
from torch import Tensor, fx, nn
from toy_target import TOY, WEIGHT, captured

X = inputs((2, 4, 6, 6))
W4 = LayerOptions(weight_bits=4)
TENSOR4 = LayerOptions(weight_bits=4, per_tensor=True)


def conv(outputs: int, ins: int, *outliers: int, kernel: int = 1, groups: int = 1, size: float = 8.0) -> nn.Conv2d:
    """A convolution of weights below 1 but those that read the channels `outliers`: one of `size`."""
    layer = nn.Conv2d(ins, outputs, kernel, padding=kernel // 2, groups=groups)
    generator = torch.Generator().manual_seed(outputs * ins)
    with torch.no_grad():
        layer.weight.uniform_(-1, 1, generator=generator)
        layer.bias.uniform_(-1, 1, generator=generator)
        for channel in outliers:
            row = channel // layer.weight.shape[1] * (outputs // groups)
            layer.weight[row, channel % layer.weight.shape[1], 0, 0] = size
    return layer


def split(
    model: nn.Module, *skips: tuple[str, str], changes: int = 1, ctx: PassContext | None = None, **options
) -> fx.GraphModule:
    """The graph after the pass; its changes and skips are as given, and float64 sees the same function."""
    chosen = {"ratio": 0.01, "usual": TENSOR4} | options
    gm, report = apply(model.eval(), X, SplitOutliers(**chosen), ctx=ctx)
    result = report["split-outliers"]
    assert (result.changes, result.skipped) == (changes, tuple(Skip(*skip) for skip in skips))
    exact, expected = gm.double()(X[0].double()), captured(model, *X).double()(X[0].double())
    torch.testing.assert_close(exact, expected, rtol=1e-12, atol=1e-12)
    gm.float()
    return gm


def weights(gm: fx.GraphModule) -> dict[str, Tensor]:
    return {node.name: constant(gm, node.args[1]) for node in gm.graph.nodes if node.target in OPS}


LEFT = "no split of it was worth a part of the budget of 1 channels"
DEPTHWISE = "it is depthwise: a part of one channel would ask for parts of all of them"


def test_a_row_of_the_layer_before_is_doubled() -> None:
    model = Calls(lambda m, x: m.b(m.a(x).relu()), a=conv(6, 4), b=conv(3, 6, 2))
    before = captured(model, *X)
    assert dump(before) == graph("""
        %0 = input x
        %1 = conv2d.default(%0, @a.weight, @a.bias)
        %2 = relu.default(%1)
        %3 = conv2d.default(%2, @b.weight, @b.bias)
        return %3""")
    gm = split(model, ("conv2d", LEFT))
    assert dump(gm) == graph("""
        %0 = input x
        %1 = conv2d.default(%0, @a.weight_split, @a.bias_split, [1, 1], [0, 0], [1, 1], 1)
        %2 = relu.default(%1)
        %3 = conv2d.default(%2, @b.weight_split, @b.bias, [1, 1], [0, 0], [1, 1], 1)
        return %3""")
    order = [0, 1, 2, 3, 4, 5, 2]
    wide, narrow = weights(gm), weights(before)
    assert torch.equal(wide["conv2d"], narrow["conv2d"][order])
    assert torch.equal(constants(gm)["a.bias_split"], constants(before)["a.bias"][order])
    one, other = wide["conv2d_1"][:, 2], wide["conv2d_1"][:, 6]
    assert torch.equal(one + other, narrow["conv2d_1"][:, 2])
    assert torch.equal(wide["conv2d_1"][:, [0, 1, 3, 4, 5]], narrow["conv2d_1"][:, [0, 1, 3, 4, 5]])
    # Δ / 2 between the parts; the larger one is the end of the grid: Δ = (8 + Δ / 2) / 2 / 7
    assert wide["conv2d_1"].abs().max().item() == pytest.approx(8 / 2 / (1 - 1 / 28))
    assert (other - one)[0].item() == pytest.approx(8 / 2 / (1 - 1 / 28) / 7 / 2)


def test_copies_run_through_pools_and_depthwise_convolutions() -> None:
    model = Calls(
        lambda m, x: m.c(nn.functional.max_pool2d(m.b(m.a(x)), 2).mean((2, 3)).relu()),
        a=conv(6, 4),
        b=conv(6, 6, kernel=3, groups=6),
        c=nn.Linear(6, 3),
    )
    with torch.no_grad():
        model.c.weight[1, 4] = 9.0
    gm = split(model, ("conv2d", LEFT), ("conv2d_1", DEPTHWISE))
    assert dump(gm) == graph("""
        %0 = input x
        %1 = conv2d.default(%0, @a.weight_split, @a.bias_split, [1, 1], [0, 0], [1, 1], 1)
        %2 = conv2d.default(%1, @b.weight_split, @b.bias_split, [1, 1], [1, 1], [1, 1], 7)
        %3 = max_pool2d.default(%2, [2, 2])
        %4 = mean.dim(%3, [2, 3])
        %5 = relu.default(%4)
        %6 = linear.default(%5, @c.weight_split, @c.bias)
        return %6""")


def test_all_layers_that_read_the_channels_get_the_copy() -> None:
    def forward(m, x):
        y = m.a(x).relu()
        return m.b(y) + m.c(y)

    model = Calls(forward, a=conv(6, 4), b=conv(3, 6, 5), c=conv(3, 6))
    gm = split(model, ("conv2d", LEFT))
    assert {name: tuple(weight.shape[:2]) for name, weight in weights(gm).items()} == {
        "conv2d": (7, 4),
        "conv2d_1": (3, 7),
        "conv2d_2": (3, 7),
    }


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.b(x),
        lambda m, x: m.b(m.a(x) + x),
        lambda m, x: (y := m.a(x), m.b(y)),
        lambda m, x: m.b(torch.cat([m.a(x)[:, :2], x[:, 2:]], 1)),
        lambda m, x: m.b(m.a(x) * x.mean((2, 3), keepdim=True)),
    ],
    ids=["input", "residual", "read by others", "concat", "product"],
)
def test_other_channels_are_copied_by_a_concat(function) -> None:
    model = Calls(function, a=conv(4, 4), b=conv(3, 4, 1))
    gm, report = apply(model, X, SplitOutliers(0.01, TENSOR4))
    assert report["split-outliers"].changes == 1
    last = next(node for node in reversed(gm.graph.nodes) if node.target is aten.conv2d.default)
    assert last.args[0].target is aten.cat.default
    value, piece = last.args[0].args[0]
    assert (piece.target, piece.args) == (aten.slice.Tensor, (value, 1, 1, 2, 1))
    assert weights(gm)[last.name].shape == (3, 5, 1, 1)


def test_the_concat_in_the_graph() -> None:
    model = Calls(lambda m, x: m.b(m.a(x) + x), a=conv(4, 4), b=conv(3, 4, 1, 2))
    gm = split(model, ("conv2d", LEFT.replace("1", "2")), changes=2, ratio=0.2)
    assert dump(gm) == graph("""
        %0 = input x
        %1 = conv2d.default(%0, @a.weight, @a.bias)
        %2 = add.Tensor(%1, %0)
        %3 = slice.Tensor(%2, 1, 1, 3, 1)
        %4 = cat.default([%2, %3], 1)
        %5 = conv2d.default(%4, @b.weight_split, @b.bias, [1, 1], [0, 0], [1, 1], 1)
        return %5""")


def test_each_group_gets_a_copy_behind_its_own_channels() -> None:
    model = Calls(lambda m, x: m.b(m.a(x)), a=conv(6, 4), b=conv(4, 6, 1, 3, groups=2))
    gm = split(model, ("conv2d", LEFT.replace("1", "2")), changes=2, ratio=0.2)
    assert torch.equal(weights(gm)["conv2d"], model.a.weight[[0, 1, 2, 1, 3, 4, 5, 3]])
    assert weights(gm)["conv2d_1"].shape == (4, 4, 1, 1)


def test_a_budget_too_small_for_all_groups() -> None:
    model = Calls(lambda m, x: m.b(m.a(x)), a=conv(6, 4), b=conv(4, 6, 1, 3, groups=2))
    split(model, ("conv2d_1", LEFT))


@pytest.mark.parametrize("layer", [nn.ConvTranspose2d(6, 3, 2), nn.ConvTranspose2d(6, 4, 2, groups=2)])
def test_transposed_convolutions(layer: nn.Module) -> None:
    with torch.no_grad():
        layer.weight[2, 0] = layer.weight[4, 0] = 9.0
    model = Calls(lambda m, x: m.b(m.a(x)), a=conv(6, 4), b=layer)
    gm = split(model, ("conv2d", LEFT.replace("1", "2")), changes=2, ratio=0.2)
    assert weights(gm)["conv_transpose2d"].shape[0] == 8


def test_linear_layers_over_sequences() -> None:
    model = Calls(lambda m, x: m.b(m.a(x).relu()), a=nn.Linear(6, 5), b=nn.Linear(5, 3))
    with torch.no_grad():
        model.b.weight[0, 3] = 9.0
    gm = split(model, ("linear", LEFT))
    assert [tuple(weight.shape) for weight in weights(gm).values()] == [(6, 6), (3, 6)]


def test_a_channel_is_split_as_often_as_it_pays() -> None:
    model = Calls(lambda m, x: m.b(m.a(x).relu()), a=conv(6, 4), b=conv(3, 6, 2, size=40.0))
    gm = split(model, ("conv2d", LEFT.replace("1", "3")), changes=3, ratio=0.3)
    parts = weights(gm)["conv2d_1"][:, [2, 6, 7, 8]]
    assert torch.equal(parts.double().sum(1), model.b.weight[:, 2].double())
    assert parts.max().item() == pytest.approx(10 / (1 - 3 / 56))


def test_two_equal_outliers_are_split_together() -> None:
    """The first split alone saves nothing."""
    model = Calls(lambda m, x: m.b(m.a(x).relu()), a=conv(6, 4), b=conv(3, 6, 1, 4))
    gm = split(model, ("conv2d", LEFT.replace("1", "2")), changes=2, ratio=0.2)
    assert weights(gm)["conv2d_1"].abs().max() < 4.2


@pytest.mark.parametrize("method", ["minmax", "mse"])
@pytest.mark.parametrize("per_tensor", [True, False])
def test_rounding_the_parts_is_rounding_on_a_finer_grid(method: str, per_tensor: bool) -> None:
    usual = LayerOptions(weight_bits=4, per_tensor=per_tensor, weight_range=method)
    torch.manual_seed(0)
    layer = nn.Conv2d(16, 12, 3)
    with torch.no_grad():
        layer.weight.normal_()
        layer.weight[:, 5] *= 3
    model = Calls(lambda m, x: m.b(m.a(x).relu()), a=nn.Conv2d(4, 16, 3), b=layer)
    gm, report = apply(model, X, SplitOutliers(0.2, usual, keep_float=("a",)))
    assert report["split-outliers"].changes == 4
    wide, rows = weights(gm)["conv2d_1"], weights(gm)["conv2d"]
    sources = [int((rows[:16] - row).abs().sum((1, 2, 3)).argmin()) for row in rows]
    rounded = torch.zeros_like(layer.weight).index_add(1, torch.tensor(sources), rounded_to_nearest(wide, usual))
    after = (rounded - layer.weight).square().sum()
    before = (rounded_to_nearest(layer.weight.detach(), usual) - layer.weight).square().sum()
    assert after < 0.95 * before


def rounded_to_nearest(weight: Tensor, usual: LayerOptions) -> Tensor:
    qp = weight_qparams(weight, usual.weight_spec(WEIGHT), 0, 1.0, None, usual.weight_range or "minmax")
    return dequantize(quantize(weight, qp), qp)


def test_the_budget_goes_where_it_saves_most() -> None:
    model = Calls(lambda m, x: m.c(m.b(m.a(x))), a=conv(6, 4), b=conv(6, 6, 2, size=3.0), c=conv(3, 6, 1))
    gm = split(model, ("conv2d", LEFT), ("conv2d_1", LEFT))
    assert weights(gm)["conv2d_2"].shape[1] == 7
    quiet = Calls(lambda m, x: m.c(x) * 1e-4 + m.b(x), b=conv(6, 4, 2, size=3.0), c=conv(6, 4, 1))
    skips = {batches: split_with(quiet, batches) for batches in (None, lambda: [X])}
    assert list(skips.values()) == [["conv2d_1"], ["conv2d"]]


def split_with(model: nn.Module, batches) -> list[str]:
    _, report = apply(model, X, SplitOutliers(0.01, TENSOR4), ctx=PassContext(batches=batches))
    return [skip.node for skip in report["split-outliers"].skipped]


def test_channels_that_carry_nothing_are_not_worth_a_split() -> None:
    model = Calls(lambda m, x: m.b(m.a(x).relu()), a=conv(6, 4), b=conv(3, 6, 2))
    with torch.no_grad():
        model.a.weight[2], model.a.bias[2] = 0.0, -1.0
        model.b.weight[:, 4] = 5.0
    clipped = dataclasses.replace(TENSOR4, weight_range="mse")
    for batches, source in ((None, 2), (lambda: [X], 4)):
        gm, _ = apply(model, X, SplitOutliers(0.01, clipped), ctx=PassContext(batches=batches))
        assert torch.equal(weights(gm)["conv2d"][6], model.a.weight[source])


def test_channels_are_filled_up_to_a_multiple() -> None:
    model = Calls(lambda m, x: m.b(m.a(x).relu()), a=conv(6, 4), b=conv(3, 6, 2))
    gm = split(model, ("conv2d", LEFT), changes=2, multiple_of=8)
    assert weights(gm)["conv2d_1"].shape[1] == 8
    odd = Calls(lambda m, x: m.b(m.a(x)), a=conv(6, 4), b=conv(4, 6, 1, 3, groups=2))
    gm, report = apply(odd, X, SplitOutliers(0.2, TENSOR4, multiple_of=3))
    assert report["split-outliers"].changes == 6
    assert weights(gm)["conv2d_1"].shape[1] == 6


def test_no_budget_changes_nothing() -> None:
    model = Calls(lambda m, x: m.b(m.a(x)), a=conv(6, 4), b=conv(3, 6, 2))
    before = dump(captured(model, *X))
    assert dump(split(model, changes=0, ratio=0.0)) == before


def test_layers_that_cannot_be_split() -> None:
    def forward(m, x):
        y = m.shared(m.shared(x))
        return m.depthwise(y) + nn.functional.conv2d(y, x[:1, :, :1, :1].expand(4, 4, 1, 1)) + m.kept(y)

    model = Calls(forward, shared=conv(4, 4), depthwise=conv(4, 4, groups=4), kept=conv(4, 4, 2))
    shared = "the weight shared.weight of conv2d{} is shared"
    split(
        model,
        ("conv2d", shared.format("")),
        ("conv2d_1", shared.format("_1")),
        ("conv2d_2", DEPTHWISE),
        ("conv2d_3", "the weight of conv2d_3 is computed, not constant"),
        ("conv2d_4", "it stays float"),
        changes=0,
        keep_float=("kept",),
    )


def test_a_layer_that_reads_a_vector() -> None:
    model = Calls(lambda m, x: m.b(x.sum((0, 2, 3))), b=nn.Linear(4, 3))
    _, report = apply(model, X, SplitOutliers(0.5, TENSOR4))
    skip = Skip("linear", "linear has no batch axis, or one of unknown place")
    assert report["split-outliers"] == PassResult(0, (skip,))


def test_a_target_without_concat() -> None:
    ops = {op: rule for op, rule in TOY.ops.items() if op is not aten.cat.default}
    ctx = PassContext(dataclasses.replace(TOY, ops=ops))
    model = Calls(lambda m, x: m.c(m.b(x).relu()), b=conv(6, 4, 2), c=conv(3, 6, 1))
    reason = "copies of its channels need a concat, which toy has no integer kernel for"
    gm = split(model, ("conv2d", reason), ctx=ctx)
    assert weights(gm)["conv2d_1"].shape[1] == 7


def test_a_second_run_spends_no_second_budget() -> None:
    model = Calls(lambda m, x: m.b(m.a(x)), a=conv(6, 4), b=conv(3, 6, 2))
    gm = split(model, ("conv2d", LEFT))
    again = "channels of this graph were split before"
    result = run_passes(gm, [SplitOutliers(0.5, TENSOR4)])["split-outliers"]
    assert result == PassResult(0, (Skip("conv2d", again), Skip("conv2d_1", again)))


def test_notes_say_what_was_split() -> None:
    model = Calls(lambda m, x: m.b(m.a(x).relu()), a=conv(6, 4), b=conv(3, 6, 2, 4))
    _, report = apply(model, X, SplitOutliers(0.2, TENSOR4))
    note = Skip("conv2d_1", "input channels 2, 4 have their weights in parts: 2 channels more")
    assert report["split-outliers"].notes == (note,)


OUTLIER = Calls(lambda m, x: m.b(m.a(x).relu()), a=conv(6, 4), b=conv(3, 6))
with torch.no_grad():
    OUTLIER.a.weight[3], OUTLIER.a.bias[3] = 12.0, 4.0
MEASURED = PassContext(batches=lambda: [X])
SHARES = SplitOutliers(0.01, LayerOptions(), keep_float=("a",), activations=True)


def test_a_value_is_split_into_shares_where_it_reaches_farthest() -> None:
    gm, report = apply(OUTLIER, X, SHARES, ctx=MEASURED)
    note = Skip("conv2d_1", "input channels 3 come in shares: 1 channels more")
    assert report["split-outliers"] == PassResult(1, (Skip("conv2d", "it stays float"),), notes=(note,))
    order, share = [0, 1, 2, 3, 4, 5, 3], torch.tensor([1, 1, 1, 0.5, 1, 1, 0.5])
    assert torch.equal(weights(gm)["conv2d"], OUTLIER.a.weight[order] * share.view(-1, 1, 1, 1))
    assert torch.equal(constants(gm)["a.bias_split"], OUTLIER.a.bias[order] * share)
    assert torch.equal(weights(gm)["conv2d_1"], OUTLIER.b.weight[:, order])
    torch.testing.assert_close(gm(*X), OUTLIER(*X), rtol=1e-5, atol=1e-5)
    whole, shared = (
        measure_channels(net, [X], ["relu"])["relu"].high.max() for net in (captured(OUTLIER, *X), gm)
    )
    assert shared < 0.6 * whole


def test_statistics_are_shared_too() -> None:
    stats = ChannelStats({"a.weight": ChannelStat(torch.arange(6.0), torch.ones(6))})
    apply(OUTLIER, X, SHARES, ctx=PassContext(batches=lambda: [X], channel_stats=stats))
    assert stats.by_weight["a.weight_split"].mean.tolist() == [0, 1, 2, 1.5, 4, 5, 1.5]
    assert stats.by_weight["a.weight_split"].std.tolist() == [1, 1, 1, 0.5, 1, 1, 0.5]


def test_shares_go_through_depthwise_convolutions() -> None:
    model = Calls(lambda m, x: m.b(m.d(m.a(x)).relu()), a=OUTLIER.a, b=OUTLIER.b, d=conv(6, 6, groups=6))
    with torch.no_grad():
        model.d.weight.fill_(0.75)
    gm, report = apply(model, X, SHARES, ctx=MEASURED)
    assert report["split-outliers"].changes == 1
    assert torch.equal(constants(gm)["d.bias_split"][3], model.d.bias[3] / 2)
    assert torch.equal(weights(gm)["conv2d_1"][3], model.d.weight[3])
    torch.testing.assert_close(gm(*X), model(*X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("act", [nn.ReLU6(), nn.Hardswish(), nn.Sigmoid(), nn.ConstantPad2d(1, 2.0)])
def test_values_that_do_not_scale_are_not_divided(act: nn.Module) -> None:
    model = Calls(lambda m, x: m.b(m.act(m.a(x))), a=OUTLIER.a, b=OUTLIER.b, act=act)
    _, report = apply(model, X, SHARES, ctx=MEASURED)
    assert [note.reason for note in report["split-outliers"].notes if "shares" in note.reason] == []


def test_values_are_not_divided_unseen() -> None:
    _, report = apply(OUTLIER, X, SHARES)
    assert [note.reason for note in report["split-outliers"].notes if "shares" in note.reason] == []


def test_options_of_layers() -> None:
    model = Calls(lambda m, x: m.b(m.a(x)), a=conv(6, 4, 1), b=conv(3, 6, 2))
    layers = {"*": LayerOptions(quantize=False), "a": LayerOptions(quantize=True), "absent": LayerOptions()}
    gm = split(model, ("conv2d_1", "it stays float"), layers=layers)
    assert weights(gm)["conv2d"].shape[1] == 5


def test_statistics_go_with_the_channels() -> None:
    model = Calls(lambda m, x: m.b(m.a(x)), a=conv(6, 4), b=conv(3, 6, 2))
    stats = {
        "a.weight": ChannelStat(torch.arange(6.0), torch.ones(6)),
        "b.weight": ChannelStat(torch.arange(3.0), torch.ones(3)),
    }
    ctx = PassContext(channel_stats=ChannelStats(dict(stats)))
    split(model, ("conv2d", LEFT), ctx=ctx)
    assert ctx.channel_stats is not None
    found = ctx.channel_stats.by_weight
    assert set(found) == {"a.weight_split", "b.weight_split"}
    assert found["a.weight_split"].mean.tolist() == [0, 1, 2, 3, 4, 5, 2]
    assert found["a.weight_split"].std.shape == (7,)
    assert found["b.weight_split"] == stats["b.weight"]


@pytest.mark.parametrize("seed", [2370, *range(7)])
def test_the_function_stays_on_random_nets(seed: int) -> None:
    bits, per_tensor, method = (2, 4, 8)[seed % 3], seed % 2 == 0, ("minmax", "mse")[seed // 2 % 2]
    usual = LayerOptions(weight_bits=bits, per_tensor=per_tensor, weight_range=method)
    net = RandomNet(seed, 14)
    example = net.examples(2)
    gm, expected = captured(net, *example), captured(net, *example)
    batches = (lambda: [example]) if seed % 5 else None
    ctx = PassContext(example_inputs=example, batches=batches)
    item = SplitOutliers((0.05, 0.3, 1.0)[seed % 3], usual, activations=seed % 2 == 1)
    report = run_passes(gm, [Canonicalize(), item], ctx)
    assert [result.rolled_back for result in report.values()] == [None, None]
    larger = net.examples(5)
    assert relative_error(evaluate(gm, larger), evaluate(expected, larger)) < 1e-4


@pytest.mark.parametrize("ratio", [-0.1, float("nan"), float("inf")])
def test_ratios_that_are_none(ratio: float) -> None:
    with pytest.raises(ValueError, match=rf"^the ratio of channels to add must be 0 or more, got {ratio}$"):
        SplitOutliers(ratio)


def test_a_multiple_of_nothing() -> None:
    with pytest.raises(ValueError, match=r"^channels cannot be a multiple of 0$"):
        SplitOutliers(multiple_of=0)
