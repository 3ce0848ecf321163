"""SplitRanges: chains become branches, readers take up the order of channels, what stays and why."""

from __future__ import annotations

import pytest
import torch
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.constants import constants
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.passes import PassContext, PassResult, run_passes
from fxedge.compiler.quant.channel_stats import ChannelStat, ChannelStats
from fxedge.passes import Canonicalize
from fxedge.passes.split_ranges import SplitRanges
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Calls, graph, inputs
from torch import Tensor, fx, nn
from torch.nn import functional as F

IMAGE = (2, 3, 6, 6)
WIDE = (1.0, 200.0, 0.9, 180.0)  # ranges of the channels of `chain`


@torch.no_grad()
def spread(layer: nn.Module, ranges: tuple[float, ...]) -> nn.Module:
    """`layer` with its rows scaled to these largest magnitudes."""
    for row, size in zip(layer.weight, ranges, strict=True):
        row.mul_(size / row.abs().max())
    return layer


def conv(channels: int, out: int, kernel: int = 1, **options: object) -> nn.Conv2d:
    torch.manual_seed(channels + out + kernel)
    return nn.Conv2d(channels, out, kernel, **options)  # type: ignore[arg-type]


def chain(ranges: tuple[float, ...] = WIDE, stride: int = 1) -> nn.Sequential:
    """Pointwise, hardswish, pad, depthwise with these ranges, hardswish."""
    size = len(ranges)
    depthwise = spread(conv(size, size, 3, groups=size, stride=stride), ranges)
    pad = nn.ZeroPad2d((0, 1, 0, 1))
    return nn.Sequential(conv(3, size), nn.Hardswish(), pad, depthwise, nn.Hardswish())


def split(
    model: nn.Module, shape: tuple[int, ...] = IMAGE, **fields: object
) -> tuple[fx.GraphModule, PassResult, ChannelStats]:
    """The graph after the pass and what it did; a second run must change nothing."""
    example = inputs(shape)
    gm = capture(model.eval(), example)
    stats = ChannelStats()
    for name, value in constants(gm).items():
        if name.endswith("bias"):
            stat = ChannelStat(torch.arange(len(value)).float(), torch.ones(len(value)))
            stats.by_weight[name.removesuffix("bias") + "weight"] = stat
    ctx = PassContext(example_inputs=example, channel_stats=stats)
    options: dict[str, object] = {"per_tensor_weights": True, "multiple_of": 1, "branches": 2} | fields
    ours = SplitRanges(**options)  # type: ignore[arg-type]
    report = run_passes(gm, [Canonicalize(), ours], ctx)
    result = report["split-ranges"]
    assert result.rolled_back is None
    assert report.max_error.get("split-ranges", 0.0) < 1e-5
    text = dump(gm)
    assert run_passes(gm, [ours], ctx)["split-ranges"].changes == 0
    assert dump(gm) == text
    return gm, result, stats


def reasons(result: PassResult) -> dict[str, str]:
    return {skip.node: skip.reason for skip in result.skipped}


def test_a_chain_with_a_pad_becomes_branches() -> None:
    gm, result, stats = split(nn.Sequential(*chain(stride=2), conv(4, 5)))
    assert result.changes == 1
    assert dump(gm) == graph("""
        %0 = input input
        %1 = conv2d.default(%0, @0.part0.weight, @0.part0.bias, [1, 1], [0, 0], [1, 1], 1)
        %2 = hardswish.default(%1)
        %3 = constant_pad_nd.default(%2, [0, 1, 0, 1], 0)
        %4 = conv2d.default(%3, @3.part0.weight, @3.part0.bias, [2, 2], [0, 0], [1, 1], 2)
        %5 = hardswish.default(%4)
        %6 = conv2d.default(%0, @0.part1.weight, @0.part1.bias, [1, 1], [0, 0], [1, 1], 1)
        %7 = hardswish.default(%6)
        %8 = constant_pad_nd.default(%7, [0, 1, 0, 1], 0)
        %9 = conv2d.default(%8, @3.part1.weight, @3.part1.bias, [2, 2], [0, 0], [1, 1], 2)
        %10 = hardswish.default(%9)
        %11 = cat.default([%5, %10], 1)
        %12 = conv2d.default(%11, @5.weight, @5.bias, [1, 1], [0, 0], [1, 1], 1)
        return %12""")
    assert stats.by_weight.keys() == {
        "0.part0.weight",
        "0.part1.weight",
        "3.part0.weight",
        "3.part1.weight",
        "5.weight",
    }
    assert stats.by_weight["3.part0.weight"].mean.tolist() == [1, 3]
    assert stats.by_weight["5.weight"].mean.tolist() == [0, 1, 2, 3, 4]


def test_shapes_are_recorded() -> None:
    gm, _, _ = split(nn.Sequential(*chain(stride=2), conv(4, 5)))
    shapes = [tuple(node.meta["val"].shape)[1:] for node in gm.graph.nodes if node.op == "call_function"]
    assert shapes[3] == (2, 3, 3)
    assert shapes[10] == (4, 3, 3)


def test_the_gate_of_a_squeeze_excite_block_follows() -> None:
    def forward(self: Calls, x: Tensor) -> Tensor:
        x = self.chain(x)
        gate = self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return self.project(x * F.hardsigmoid(gate))

    parts = {"chain": chain(), "reduce": conv(4, 2), "expand": conv(2, 4), "project": conv(4, 3)}
    gm, result, stats = split(Calls(forward, **parts))
    assert result.changes == 1
    order = [1, 3, 0, 2]
    found = constants(gm)
    assert torch.equal(found["reduce.weight"], parts["reduce"].weight[:, order])
    assert torch.equal(found["expand.weight"], parts["expand"].weight[order])
    assert torch.equal(found["expand.bias"], parts["expand"].bias[order])
    assert torch.equal(found["project.weight"], parts["project"].weight[:, order])
    assert stats.by_weight["expand.weight"].mean.tolist() == order


def test_activations_count_where_weights_have_a_scale_for_each_row() -> None:
    """A wide channel that counts little beside narrow ones: one scale for each row, but one for the activation."""
    first, last = spread(conv(3, 4), (0.5, 60.0, 0.6, 0.4)), conv(4, 2)
    model = nn.Sequential(first, nn.Hardswish(), conv(4, 4, 3, groups=4), nn.ReLU(), last).eval()
    with torch.no_grad():
        last.weight[:, 1] *= 1e-3
    example = inputs(IMAGE)
    gm = capture(model, example)
    passes = [SplitRanges(multiple_of=1)]
    without = run_passes(gm, passes, PassContext(example_inputs=example))["split-ranges"]
    assert without.changes == 0
    assert reasons(without)["conv2d"] == "no scale serves several of its channels, or none is known of"
    result = run_passes(gm, passes, PassContext(example_inputs=example, batches=lambda: [example]))
    assert result["split-ranges"].changes == 1
    assert result.max_error["split-ranges"] < 1e-5
    assert dump(gm) == graph("""
        %0 = input input
        %1 = conv2d.default(%0, @0.part0.weight, @0.part0.bias, [1, 1], [0, 0], [1, 1], 1)
        %2 = hardswish.default(%1)
        %3 = conv2d.default(%2, @2.part0.weight, @2.part0.bias, [1, 1], [0, 0], [1, 1], 1)
        %4 = relu.default(%3)
        %5 = conv2d.default(%0, @0.part1.weight, @0.part1.bias, [1, 1], [0, 0], [1, 1], 1)
        %6 = hardswish.default(%5)
        %7 = conv2d.default(%6, @2.part1.weight, @2.part1.bias, [1, 1], [0, 0], [1, 1], 3)
        %8 = relu.default(%7)
        %9 = cat.default([%4, %8], 1)
        %10 = conv2d.default(%9, @4.weight, @4.bias)
        return %10""")


def test_bounds_of_clamps_are_split_and_reordered() -> None:
    def forward(self: Calls, x: Tensor) -> Tensor:
        x = torch.clamp(self.chain(x), max=self.high)
        return self.project(x * self.gain)

    parts = {"chain": chain(), "high": torch.rand(4, 1, 1), "gain": torch.rand(1, 4, 1, 1), "project": conv(4, 3)}
    gm, result, _ = split(Calls(forward, **parts))
    assert result.changes == 1
    found = constants(gm)
    assert torch.equal(found["part0.high"], parts["high"][[1, 3]])
    assert torch.equal(found["part1.high"], parts["high"][[0, 2]])
    assert torch.equal(found["gain"], parts["gain"][:, [1, 3, 0, 2]])


def test_a_flatten_and_a_pool_before_a_linear() -> None:
    model = nn.Sequential(*chain(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    gm, result, _ = split(model)
    assert result.changes == 1
    linear = constants(gm)["7.weight"]
    places = model[7].weight.view(3, 4, 4)[:, [1, 3, 0, 2]].reshape(3, 16)
    assert torch.equal(linear, places)


def test_a_linear_with_an_activation() -> None:
    wide = spread(nn.Linear(6, 8), (1.0, 300.0) * 4)
    gm, result, _ = split(nn.Sequential(wide, nn.GELU(), nn.Linear(8, 2)), (2, 5, 6))
    assert result.changes == 1
    assert dump(gm) == graph("""
        %0 = input input
        %1 = linear.default(%0, @0.part0.weight, @0.part0.bias)
        %2 = gelu.default(%1)
        %3 = linear.default(%0, @0.part1.weight, @0.part1.bias)
        %4 = gelu.default(%3)
        %5 = cat.default([%2, %4], 2)
        %6 = linear.default(%5, @2.weight, @2.bias)
        return %6""")


def test_a_reader_that_is_split_after_its_columns_moved() -> None:
    second = spread(conv(4, 8), (1.0, 500.0) * 4)
    _, result, _ = split(nn.Sequential(*chain(), second, nn.SiLU(), conv(8, 2)))
    assert result.changes == 2


def test_a_transposed_conv_starts_a_chain() -> None:
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(3, 4, 2, 2)
    with torch.no_grad():
        up.weight[:, ::2] *= 300
    gm, result, _ = split(nn.Sequential(up, nn.SiLU(), conv(4, 2)))
    assert result.changes == 1
    assert constants(gm)["0.part0.weight"].shape == (3, 2, 2, 2)


def _twice(block: nn.Module) -> nn.Module:
    return Calls(
        lambda self, x: self.head(torch.tanh(self.block(x)) + self.block(x)), block=block, head=conv(4, 2)
    )


def _joined(function: object, **parts: nn.Module) -> nn.Module:
    return Calls(function, chain=chain(stride=1), head=conv(4, 2), **parts)  # type: ignore[arg-type]


ORDER = "its channels cannot be put in another order: "
REFUSED = {
    "an output": (chain(), f"{ORDER}they are an output"),
    "a concat": (
        _joined(lambda self, x: torch.cat([self.chain(x), x[:, :, 1:, 1:]], 1)),
        f"{ORDER}cat (cat.default) reads them",
    ),
    "groups": (nn.Sequential(*chain(), conv(4, 4, groups=2)), f"{ORDER}5 (conv2d_2) reads them in 2 groups"),
    "softmax": (nn.Sequential(*chain(), nn.Softmax(1)), f"{ORDER}5 (softmax) (softmax.int) reads them"),
    "an input": (
        _joined(lambda self, x: self.head(self.chain(x) + x.repeat(1, 2, 1, 1)[:, :4, 1:, 1:])),
        f"{ORDER}slice_4 (slice.Tensor) cannot give them in another order",
    ),
    "shared weights": (_twice(chain()), "the weight block.0.weight of conv2d is shared"),
    "even": (
        nn.Sequential(*chain((1.0, 1.1, 0.9, 1.0)), conv(4, 2)),
        "one scale leaves 3.8e-05 of noise, no more than 0.01",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str) -> None:
    model, reason = REFUSED[name]
    _, result, _ = split(model)
    assert result.changes == 0
    assert reasons(result)["conv2d"] == reason


def test_little_gain() -> None:
    _, result, _ = split(nn.Sequential(*chain(), conv(4, 2)), gain=1e6)
    assert result.changes == 0
    assert reasons(result)["conv2d"] == "2 branches leave 3.2e-05 of noise, one leaves 0.31"


def test_wrong_options() -> None:
    few = "a split needs 2 branches or more of 1 channel or more, got 1 branches with a multiple of 8 channels"
    with pytest.raises(ValueError, match=f"^{few}$"):
        SplitRanges(branches=1)
    with pytest.raises(ValueError, match=r"^gain must be above 1 and floor above 0, got 1\.0 and 0\.01$"):
        SplitRanges(gain=1.0)


@settings(max_examples=8, deadline=None)
@given(
    ranges=st.lists(st.floats(-6, 6), min_size=2, max_size=9),
    branches=st.integers(2, 4),
    multiple_of=st.integers(1, 3),
    stride=st.integers(1, 2),
)
def test_any_spread_keeps_the_function(ranges: list[float], branches: int, multiple_of: int, stride: int) -> None:
    """`split` asserts that outputs are close and that a second run changes nothing."""
    body = chain(tuple(2.0**power for power in ranges), stride)
    model = nn.Sequential(*body, conv(len(ranges), 3))
    gm, result, _ = split(model, branches=branches, multiple_of=multiple_of, floor=1e-6, gain=1.01)
    joins = [node for node in gm.graph.nodes if node.target is torch.ops.aten.cat.default]
    assert len(joins) == result.changes
    for join in joins:
        sizes = [node.meta["val"].shape[1] for node in join.args[0]]
        assert sum(sizes) == len(ranges)
        assert 2 <= len(sizes) <= branches
        assert all(size % multiple_of == 0 for size in sizes[:-1])
