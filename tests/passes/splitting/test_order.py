"""A layer's rows in another order: whoever reads them takes it up, and the function stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from fxedge.compiler.ir.constants import get_constant, set_constant
from fxedge.compiler.ir.passes import PassContext
from fxedge.compiler.quant.channel_stats import ChannelStat, ChannelStats
from fxedge.passes import Canonicalize
from fxedge.passes.splitting.order import Reordering, plan_order
from support import Calls, apply, inputs
from torch import Tensor, fx, nn

CHANNELS = 8
X = inputs((2, 3, 6, 6))
ORDER = torch.randperm(CHANNELS, generator=torch.Generator().manual_seed(0))


def model_of(function: Callable[..., object]) -> Calls:
    torch.manual_seed(0)
    return Calls(
        function,
        first=nn.Conv2d(3, CHANNELS, 3),
        wide=nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS),
        grouped=nn.Conv2d(CHANNELS, CHANNELS, 1, groups=2),
        narrow=nn.Conv2d(CHANNELS, 2, 1),
        up=nn.Conv2d(2, CHANNELS, 1),
        last=nn.Conv2d(CHANNELS, 4, 1),
        head=nn.Linear(CHANNELS, 5),
        flat=nn.Linear(CHANNELS * 16, 5),
        scale=torch.rand(CHANNELS, 1, 1),
    )


def planned(function: Callable[..., object]) -> tuple[fx.GraphModule, Reordering | str]:
    gm, _ = apply(model_of(function).eval(), X, Canonicalize())
    (value,) = (node for node in gm.graph.nodes if node.name == "conv2d")
    return gm, plan_order(gm, value, 1, ORDER)


def gate(m: Calls, x: Tensor) -> Tensor:
    return m.last(x * torch.sigmoid(m.up(F.relu(m.narrow(x.mean((2, 3), keepdim=True))))))


@pytest.mark.parametrize(
    ("function", "rows", "columns"),
    [
        (lambda m, x: m.last(F.silu(m.first(x))), [], ["last"]),
        (lambda m, x: m.last(F.pad(F.max_pool2d(m.first(x), 2), (1, 1, 1, 1))), [], ["last"]),
        (lambda m, x: m.last(F.hardswish(m.wide(F.relu(m.first(x))))), ["wide"], ["last"]),
        (lambda m, x: m.head(F.relu(m.first(x)).mean((2, 3))), [], ["head"]),
        (lambda m, x: m.flat(F.relu(m.first(x)).flatten(1)), [], ["flat"]),
        (lambda m, x: m.last(m.first(x) * m.scale), [], ["last"]),
        (lambda m, x: (m.last(y := m.first(x)), m.narrow(y)), [], ["last", "narrow"]),
        (lambda m, x: gate(m, m.first(x)), ["up"], ["narrow", "last"]),
    ],
    ids=["activation", "pool and pad", "depthwise", "mean", "flatten", "constant", "two readers", "gate"],
)
def test_the_function_stays(function: Callable[..., object], rows: list[str], columns: list[str]) -> None:
    gm, found = planned(function)
    assert isinstance(found, Reordering)
    named = [[str(node.args[1].target).split(".")[0] for node in taken] for taken in (found.rows, found.columns)]
    assert named == [rows, columns]
    wanted = gm(*X)
    stats = ChannelStats({f"{name}.weight": ChannelStat(torch.arange(8.0), torch.ones(8)) for name in rows})
    found.apply(gm, PassContext(channel_stats=stats))
    for name in ("first.weight", "first.bias"):
        value = get_constant(gm, name)
        assert value is not None
        set_constant(gm, name, value[ORDER])
    torch.testing.assert_close(gm(*X), wanted)
    for name in rows:
        assert torch.equal(stats.by_weight[f"{name}.weight"].mean, ORDER.float())


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda m, x: m.first(x), "they are an output"),
        (lambda m, x: m.grouped(m.first(x)), "grouped (conv2d_1) reads them in 2 groups"),
        (lambda m, x: m.last(torch.cat([m.first(x), m.first(x)], 1)[:, :8]), "cat (cat.default) reads them"),
        (
            lambda m, x: m.last(m.first(x) + x[:, :1].expand(-1, 8, -1, -1)[..., :4, :4]),
            "slice_4 (slice.Tensor) cannot give them in another order",
        ),
        (lambda m, x: m.head(m.first(x).mean((0, 1)).view(2, 8)), "mean (mean.dim) reads them"),
        (
            lambda m, x: (z := m.first(x), y := m.up(x[:, :2, :4, :4]), m.last(z * y), m.narrow(y))[2:],
            "conv2d_1, which mul reads beside them, is also read elsewhere",
        ),
    ],
    ids=["output", "groups", "concat", "no layer beside it", "mean over channels", "shared operand"],
)
def test_what_cannot_take_it_up_refuses(function: Callable[..., object], reason: str) -> None:
    _, found = planned(function)
    assert found == reason


def test_statistics_may_be_missing() -> None:
    gm, found = planned(lambda m, x: m.last(m.wide(m.first(x))))
    assert isinstance(found, Reordering)
    found.apply(gm, PassContext())
    assert set(found.rows) == {node for node in gm.graph.nodes if node.name == "conv2d_1"}
