"""channel_map: which channels are of one class, which are fixed and why; any factors keep the function."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.passes import evaluate, run_passes
from fxedge.compiler.quant.channel_stats import ChannelStat, ChannelStats
from fxedge.passes import Canonicalize, FoldBatchNorm
from fxedge.passes.channels.maps import ChannelMap, channel_map
from fxedge.passes.channels.rescale import rescale
from hypothesis import given, settings
from hypothesis import strategies as st
from random_nets import RandomNet
from support import Calls, graph, inputs
from torch import Tensor, fx, nn
from torch.nn import functional as F

IMAGE = (2, 4, 6, 6)
BOUND = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)


def _prepared(model: nn.Module, *shapes: tuple[int, ...]) -> tuple[fx.GraphModule, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    example = inputs(*shapes)
    gm = capture(model.eval(), example)
    run_passes(gm, [Canonicalize(), FoldBatchNorm()])
    return gm, example


def _layers(channels: ChannelMap) -> list[tuple[list[str], list[str]]]:
    """In and out classes of each layer as letters in the order of their first use, fixed ones as `.`."""
    names: dict[int, str] = {}

    def letters(ids: Tensor) -> list[str]:
        return ["." if i in channels.reasons else names.setdefault(i, chr(97 + len(names))) for i in ids.tolist()]

    return [(letters(layer.in_ids), letters(layer.out_ids)) for layer in channels.layers]


def _text(channels: ChannelMap) -> str:
    return " ".join(f"{''.join(read)}>{''.join(out)}" for read, out in _layers(channels))


def _two(between: object, out: int = 3, read: int = 3) -> Calls:
    """conv to `out` channels, `between`, conv from `read` channels; the last one sees a graph output."""
    return Calls(
        lambda m, x: m.second(between(m.first(x))),  # type: ignore[operator]
        first=nn.Conv2d(4, out, 1),
        second=nn.Conv2d(read, 2, 1),
    )


class Case(NamedTuple):
    name: str
    model: nn.Module
    expected: str


def _squeeze_excite(m: Calls, x: Tensor) -> Tensor:
    x = F.relu(m.first(x))
    gate = m.expand(F.relu(m.reduce(x.mean((2, 3), keepdim=True))))
    return m.last(x * torch.sigmoid(gate))


CASES = [
    Case("relu", _two(F.relu), "....>abc abc>.."),
    Case("leaky", _two(lambda y: F.leaky_relu(y, 0.1)), "....>abc abc>.."),
    Case("relu6", _two(F.relu6), "....>abc abc>.."),
    Case("one bound", _two(lambda y: y.clamp(max=0.5)), "....>abc abc>.."),
    Case("bounds", _two(lambda y: torch.clamp(y, max=BOUND)), "....>abc abc>.."),
    Case("hardswish", _two(F.hardswish), "....>... ...>.."),
    Case("scaled", _two(lambda y: y * 2 / 3), "....>abc abc>.."),
    Case("shifted", _two(lambda y: y + 1), "....>... ...>.."),
    Case("bias", _two(lambda y: y + torch.ones(3, 1, 1)), "....>abc abc>.."),
    Case("one bias", _two(lambda y: torch.ones(1, 6, 6) - y), "....>aaa aaa>.."),
    Case("max pool", _two(lambda y: F.max_pool2d(y, 2)), "....>abc abc>.."),
    Case("avg pool", _two(lambda y: F.avg_pool2d(y, 3, 1, 1)), "....>abc abc>.."),
    Case("adaptive max", _two(lambda y: F.adaptive_max_pool2d(y, 2)), "....>abc abc>.."),
    Case("upsample", _two(lambda y: F.interpolate(y, scale_factor=2)), "....>abc abc>.."),
    Case("zero pad", _two(lambda y: F.pad(y, (1, 2, 0, 1))), "....>abc abc>.."),
    Case("one pad", _two(lambda y: F.pad(y, (1, 2, 0, 1), value=1.0)), "....>... ...>.."),
    Case("reflect", _two(lambda y: F.pad(y, (1, 1, 1, 1), mode="reflect")), "....>abc abc>.."),
    Case("channel pad", _two(lambda y: F.pad(y, (0, 0, 0, 0, 1, 1)), 2, 4), "....>ab cabd>.."),
    Case("concat", _two(lambda y: torch.cat([y, F.relu(y)], 1), 2, 4), "....>ab abab>.."),
    Case("split", _two(lambda y: torch.cat(y.split([1, 2], 1)[::-1], 1)), "....>abc bca>.."),
    Case("chunk", _two(lambda y: y.chunk(2, 1)[1], 4, 2), "....>abcd cd>.."),
    Case("slice", _two(lambda y: y[:, ::2], 4, 2), "....>abcd ac>.."),
    Case("select", _two(lambda y: y[:, 1:2, ::2], 3, 1), "....>abc b>.."),
    Case("pixel shuffle", _two(lambda y: F.pixel_shuffle(y, 2), 4, 1), "....>aaaa a>.."),
    Case("pixel unshuffle", _two(lambda y: F.pixel_unshuffle(y, 2), 2, 8), "....>ab aaaabbbb>.."),
    Case("channel shuffle", _two(lambda y: F.channel_shuffle(y, 2), 4, 4), "....>abcd acbd>.."),
    Case(
        "shuffle by views",
        _two(lambda y: y.view(y.shape[0], 2, 2, 6, 6).transpose(1, 2).reshape(y.shape[0], 4, 6, 6), 4, 4),
        "....>abcd acbd>..",
    ),
    Case("residual", _two(lambda y: y + 0.5 * F.relu(y)), "....>abc abc>.."),
    Case("difference", _two(lambda y: torch.sub(F.relu(y), y, alpha=2)), "....>abc abc>.."),
    Case("broadcast", _two(lambda y: y + y[:, :1]), "....>aaa aaa>.."),
    Case("flip", _two(lambda y: torch.maximum(y, y.flip(1))), "....>aba aba>.."),
    Case("softmax", _two(lambda y: y.softmax(1)), "....>... ...>.."),
    Case("channel mean", _two(lambda y: y.mean(1, keepdim=True), 3, 1), "....>aaa a>.."),
    Case(
        "depth pad",
        _two(lambda y: F.pad(y[None], (0, 0, 0, 0, 1, 0), mode="replicate")[0], 3, 4),
        "....>aaa aaaa>..",
    ),
    Case("spatial mean", _two(lambda y: y.mean((2, 3), keepdim=True)), "....>abc abc>.."),
    Case("square", _two(lambda y: y * y), "....>... ...>.."),
    Case("norm", _two(lambda y: F.layer_norm(y, (6,))), "....>... ...>.."),
    Case(
        "layer norm",
        Calls(lambda m, x: m.b(m.n(x)), n=nn.LayerNorm(6), b=nn.Linear(6, 2)),
        "abcdef>..",
    ),
    Case(
        "layer norm in a residual stream",
        Calls(lambda m, x: m.n(m.b(m.n(x)) + x), n=nn.LayerNorm(6), b=nn.Linear(6, 6)),
        "abcdef>......",
    ),
    Case(
        "attention",
        Calls(
            lambda m, x: m.c(torch.softmax(m.q(x) @ m.k(x).transpose(2, 3), -1) @ m.v(x)),
            **{name: nn.Linear(6, 2) for name in "qkv"},
            c=nn.Linear(2, 3),
        ),
        "......>.. ......>.. ......>ab ab>...",
    ),
    Case(
        "a product from the left",
        Calls(
            lambda m, x: m.b((F.relu(m.a(x)) @ x[:, :3].softmax(3)).transpose(1, 3)),
            a=nn.Conv2d(4, 3, 1),
            b=nn.Linear(3, 2),
        ),
        "....>abc abc>..",
    ),
    Case("prelu", Calls(lambda m, x: m.b(m.p(m.a(x))), a=nn.Conv2d(4, 3, 1), p=nn.PReLU(3), b=nn.Conv2d(3, 2, 1)),
         "....>abc abc>.."),
    Case(
        "flatten",
        Calls(lambda m, x: m.b(F.relu(m.a(x)).flatten(1)), a=nn.Conv2d(4, 2, 5), b=nn.Linear(8, 2)),
        "....>ab aaaabbbb>..",
    ),
    Case(
        "linear",
        Calls(lambda m, x: m.b(F.relu(m.a(x))), a=nn.Linear(6, 3), b=nn.Linear(3, 2)),
        "......>abc abc>..",
    ),
    Case(
        "linear on another axis",
        Calls(lambda m, x: m.b(m.a(x)), a=nn.Conv2d(4, 3, 1), b=nn.Linear(6, 2)),
        "....>aaa aaaaaa>..",
    ),
    Case(
        "depthwise",
        Calls(
            lambda m, x: m.c(m.b(m.a(x))),
            a=nn.Conv2d(4, 2, 1),
            b=nn.Conv2d(2, 4, 3, groups=2),
            c=nn.Conv2d(4, 2, 1),
        ),
        "....>ab ab>cdef cdef>..",
    ),
    Case(
        "transposed",
        Calls(
            lambda m, x: m.c(F.relu(m.b(F.relu(m.a(x))))),
            a=nn.Conv2d(4, 4, 1),
            b=nn.ConvTranspose2d(4, 6, 3, 2, groups=2),
            c=nn.ConvTranspose2d(6, 2, 1),
        ),
        "....>abcd abcd>efghij efghij>..",
    ),
    Case(
        "squeeze-excite",
        Calls(
            _squeeze_excite,
            first=nn.Conv2d(4, 3, 1),
            reduce=nn.Conv2d(3, 2, 1),
            expand=nn.Conv2d(2, 3, 1),
            last=nn.Conv2d(3, 2, 1),
        ),
        "....>abc abc>de de>... abc>..",
    ),
    Case(
        "gate of channels",
        Calls(
            lambda m, x: m.last(m.wide(x) * m.gate(x.mean((2, 3), keepdim=True))),
            wide=nn.Conv2d(4, 3, 1),
            gate=nn.Conv2d(4, 3, 1),
            last=nn.Conv2d(3, 2, 1),
        ),
        "....>abc ....>... abc>..",
    ),
    Case(
        "used twice",
        Calls(lambda m, x: m.b(F.relu(m.a(F.relu(m.a(m.b(x)))))), a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 4, 1)),
        "....>.... ....>.... ....>.... ....>....",
    ),
    Case(
        "used twice apart",
        Calls(
            lambda m, x: m.c(F.relu(m.a(m.b(x))) + m.a(m.b(x.flip(2)))),
            a=nn.Conv2d(3, 2, 1),
            b=nn.Conv2d(4, 3, 1),
            c=nn.Conv2d(2, 1, 1),
        ),
        "....>abc abc>de ....>abc abc>de de>.",
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_classes(case: Case) -> None:
    gm, example = _prepared(case.model, IMAGE)
    channels = channel_map(gm)
    assert _text(channels) == case.expected
    _check_any_factors(gm, example, channels)


def _check_any_factors(
    gm: fx.GraphModule, example: tuple[Tensor, ...], channels: ChannelMap, seed: int = 0
) -> None:
    """Powers of two must not change a bit."""
    generator = torch.Generator().manual_seed(seed)
    factors = 2.0 ** torch.randint(-5, 6, (channels.count,), generator=generator).double()
    factors[~channels.free] = 1
    expected = evaluate(gm, example)
    changes = rescale(gm, channels, factors)
    gm.recompile()
    assert (changes > 0) == bool((factors != 1).any())
    for actual, wanted in zip(evaluate(gm, example), expected, strict=True):
        assert torch.equal(actual.nan_to_num(), wanted.nan_to_num())


class Fixed(NamedTuple):
    name: str
    model: nn.Module
    reason: str


FIXED = [
    Fixed("op", _two(F.hardswish), "hardswish.default of hardswish does not scale with its input"),
    Fixed(
        "pad",
        _two(lambda y: F.pad(y, (1, 1), value=1.5)),
        "constant_pad_nd.default of constant_pad_nd_default pads with 1.5",
    ),
    Fixed("gate", _two(lambda y: y * y), "mul.Tensor of mul takes it as a gate"),
    Fixed("divisor", _two(lambda y: 1 / y), "reciprocal.default of reciprocal does not scale with its input"),
    Fixed(
        "computed weight",
        Calls(lambda m, x: F.conv2d(m.a(x), m.w + x.mean()), a=nn.Conv2d(4, 3, 1), w=torch.rand(2, 3, 1, 1)),
        "the weight of conv2d_1 is not a constant",
    ),
    Fixed(
        "tied weight",
        Calls(lambda m, x: (F.conv2d(m.a(x), m.w), m.w * x.sum()), a=nn.Conv2d(4, 3, 1), w=torch.rand(2, 3, 1, 1)),
        "the weight w of conv2d_1 is also read by mul",
    ),
    Fixed(
        "computed bias",
        Calls(lambda m, x: F.conv2d(x, m.w, x.mean((0, 2, 3))), w=torch.rand(4, 4, 1, 1)),
        "the bias of conv2d is computed, not constant",
    ),
    Fixed("input", Calls(lambda m, x: m.a(x) + x, a=nn.Conv2d(4, 4, 1)), "the graph input x keeps its scale"),
]  # fmt: skip


@pytest.mark.parametrize("case", FIXED, ids=lambda case: case.name)
def test_reasons(case: Fixed) -> None:
    gm, _ = _prepared(case.model, IMAGE)
    channels = channel_map(gm)
    assert {channels.reasons.get(i) for i in channels.layers[0].out_ids.tolist()} == {case.reason}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_random_nets_keep_every_bit(seed: int, length: int) -> None:
    net = RandomNet(seed, length).eval()
    gm = capture(net, net.examples(2))
    run_passes(gm, [Canonicalize(), FoldBatchNorm()])
    _check_any_factors(gm, net.examples(3), channel_map(gm), seed)


def test_shared_bias_and_statistics_follow_their_layers() -> None:
    model = Calls(
        lambda m, x: m.c(F.conv2d(x, m.v, m.b) + F.relu6(F.conv2d(x, m.w, m.b)).flip(1)),
        v=torch.rand(3, 4, 1, 1),
        w=torch.rand(3, 4, 1, 1),
        b=torch.rand(3),
        c=nn.Conv2d(3, 2, 1),
    )
    gm, example = _prepared(model, IMAGE)
    channels = channel_map(gm)
    expected = gm(*example)
    stats = ChannelStats({"w": ChannelStat(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0, 6.0]))})
    factors = torch.ones(channels.count, dtype=torch.float64)
    factors[channels.layers[1].out_ids] = torch.tensor([2.0, 4.0, 0.5], dtype=torch.float64)
    assert rescale(gm, channels, factors, stats) == 4
    gm.recompile()
    assert torch.equal(gm(*example), expected)
    assert stats.by_weight["w"].mean.tolist() == [0.5, 0.5, 6.0]
    assert stats.by_weight["w"].std.tolist() == [2.0, 1.25, 12.0]
    assert dump(gm) == graph("""
        %0 = input x
        %1 = conv2d.default(%0, @v, @b_1, [1, 1], [0, 0], [1, 1], 1)
        %2 = conv2d.default(%0, @w, @b, [1, 1], [0, 0], [1, 1], 1)
        %3 = relu.default(%2)
        %4 = clamp.Tensor(%3, None, @hardtanh_default_max)
        %5 = flip.default(%4, [1])
        %6 = add.Tensor(%1, %5)
        %7 = conv2d.default(%6, @c.weight, @c.bias, [1, 1], [0, 0], [1, 1], 1)
        return %7""")


class Bounds(NamedTuple):
    name: str
    model: nn.Module
    factors: list[float]
    expected: str


BOUNDS = [
    Bounds("one factor", _two(F.relu6), [2, 2, 2], "hardtanh.default(%1, 0, 3)"),
    Bounds("one bound", _two(lambda y: y.clamp(max=1)), [4, 4, 4], "clamp.default(%1, None, 0.25)"),
    Bounds("low", _two(lambda y: y.clamp(min=-1)), [4, 1, 4], "clamp.Tensor(%1, @clamp_default_min, None)"),
    Bounds(
        "both",
        _two(lambda y: F.hardtanh(y, -0.2, 0.1)),
        [1, 1, 4],
        "clamp.Tensor(%1, @hardtanh_min, @hardtanh_max)",
    ),
]


@pytest.mark.parametrize("case", BOUNDS, ids=lambda case: case.name)
def test_clamps(case: Bounds) -> None:
    gm, example = _prepared(case.model, IMAGE)
    channels = channel_map(gm)
    expected = gm(*example)
    factors = torch.ones(channels.count, dtype=torch.float64)
    factors[channels.layers[0].out_ids] = torch.tensor(case.factors, dtype=torch.float64)
    assert rescale(gm, channels, factors) == 3
    gm.recompile()
    assert torch.equal(gm(*example), expected)
    assert dump(gm).splitlines()[2] == f"%2 = {case.expected}"
