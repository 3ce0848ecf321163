"""SplitRanges: chains become branches, readers take up the order of channels, what stays and why."""

from __future__ import annotations

import torch
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.constants import constants
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.passes import PassContext, PassResult, run_passes
from fxedge.compiler.quant.channel_stats import ChannelStat, ChannelStats
from fxedge.passes import Canonicalize
from fxedge.passes.split_ranges import SplitRanges
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
    stats = ChannelStats(
        {
            name: ChannelStat(torch.arange(len(value)).float(), torch.ones(len(value)))
            for name, value in constants(gm).items()
            if name.endswith("weight")
        }
    )
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
