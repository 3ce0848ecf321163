"""JoinRanges: branches in float become one chain, others stay; the values are the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.ops import aten
from fxedge.compiler.ir.passes import PassContext, PassResult, Skip, run_passes
from fxedge.compiler.ir.qops import DQ, Q
from fxedge.passes import Canonicalize, SplitRanges, join_ranges
from fxedge.passes.join_ranges import JoinRanges
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Calls, graph, inputs
from torch import Tensor, fx, nn
from torch.nn import functional as F
from toy_target import HandWritten, brief

IMAGE = (2, 3, 6, 6)
A = (0.5, 10, 0, 255, torch.uint8)


def joined(gm: fx.GraphModule, example: tuple[Tensor, ...] = ()) -> PassResult:
    """What the pass did; a second run must change nothing."""
    example = example or inputs(IMAGE)
    before = gm(*example)
    result = run_passes(gm, [JoinRanges()], PassContext(example_inputs=example))["join-ranges"]
    torch.testing.assert_close(gm(*example), before, rtol=1e-5, atol=1e-5)
    text = dump(gm)
    again = run_passes(gm, [JoinRanges()], PassContext(example_inputs=example))["join-ranges"]
    assert (again.changes, dump(gm)) == (0, text)
    return result


def captured(forward: Callable, shape: tuple[int, ...] = IMAGE, **parts: nn.Module) -> fx.GraphModule:
    torch.manual_seed(0)
    gm = capture(Calls(forward, **parts).eval(), inputs(shape))
    run_passes(gm, [Canonicalize()])
    return gm


def branches(**options: object) -> fx.GraphModule:
    """Two chains of pointwise, hardswish, depthwise and a concat; `options` are those of the second pointwise."""
    forward = lambda m, x: torch.cat([m.c(F.hardswish(m.a(x))), m.d(F.hardswish(m.b(x)))], 1)  # noqa: E731
    b = nn.Conv2d(3, 2, 1, **options)  # type: ignore[arg-type]
    c, d = nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(2, 2, 3, groups=2)
    return captured(forward, a=nn.Conv2d(3, 4, 1), b=b, c=c, d=d)


def test_float_branches_become_one_chain() -> None:
    gm = branches()
    assert joined(gm) == PassResult(1)
    assert dump(gm) == graph("""
        %0 = input x
        %1 = conv2d.default(%0, @a.weight_joined, @a.bias_joined, [1, 1], [0, 0], [1, 1], 1)
        %2 = hardswish.default(%1)
        %3 = conv2d.default(%2, @c.weight_joined, @c.bias_joined, [1, 1], [0, 0], [1, 1], 6)
        return %3""")
    assert [tuple(node.meta["val"].shape[:2]) for node in gm.graph.nodes if node.op == "call_function"] == [
        (2, 6)
    ] * 3


@pytest.mark.parametrize(
    "options", [{"bias": False}, {"padding": 1, "stride": 2}, {"dtype": torch.float64}], ids=str
)
def test_branches_that_differ_stay(options: dict[str, object]) -> None:
    if "dtype" in options:  # a branch that reads something else
        forward = lambda m, x: torch.cat([F.hardswish(m.a(x)), F.hardswish(m.b(x + 1))], 1)  # noqa: E731
        gm = captured(forward, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 2, 1))
    elif "stride" in options:
        forward = lambda m, x: torch.cat([m.a(x), m.b(x)], 1)  # noqa: E731
        a, b = nn.Conv2d(3, 4, 1, stride=2), nn.Conv2d(3, 2, 3, **options)  # type: ignore[arg-type]
        gm = captured(forward, a=a, b=b)
    else:
        gm = branches(**options)
    assert joined(gm) == PassResult(0)


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: torch.cat([m.a(x), m.b(x)], 2),
        lambda m, x: torch.cat([m.a(x), x], 1),
        lambda m, x: torch.cat([m.a(x), m.b(x).relu()], 1),
        lambda m, x: torch.cat([F.softmax(m.a(x), 1), F.softmax(m.b(x), 1)], 1),
        lambda m, x: (lambda a: torch.cat([a, m.b(x)], 1) + a.sum())(m.a(x)),
    ],
    ids=["another axis", "no layer", "another op", "channels meet", "another reader"],
)
def test_concats_of_anything_else_stay(forward: Callable) -> None:
    gm = captured(forward, a=nn.Conv2d(3, 3, 1), b=nn.Conv2d(3, 3, 1))
    assert joined(gm) == PassResult(0)


def written(quantize_second: bool) -> fx.GraphModule:
    """Two convs of the same integers, each behind a dequantize node of its own."""
    b = HandWritten()
    integers = b(Q, b.x, *A)
    parts = []
    for name in "ab":
        weight = b.constant(f"{name}_weight", torch.ones(2, 3, 1, 1) * (1 + (name == "b")))
        part = b(aten.conv2d.default, b(DQ, integers, *A), weight, None, [1, 1], [0, 0], [1, 1], 1)
        parts.append(b(DQ, b(Q, part, *A), *A) if quantize_second and name == "b" else part)
        part.meta["val"] = torch.empty(2, 2, 6, 6, device="meta")
    for node in b.graph.nodes:
        node.meta.setdefault("val", torch.empty(IMAGE, device="meta"))
    return b.done(b(aten.cat.default, parts, 1))


def test_branches_that_dequantize_the_same_integers_read_one() -> None:
    gm = written(quantize_second=False)
    assert joined(gm) == PassResult(1)
    assert brief(gm) == graph("""
        %0 = input x
        %1 = quantize(%0, 0.5, 10, 0, 255, uint8)
        %2 = dequantize(%1, 0.5, 10, 0, 255, uint8)
        %3 = conv2d.default(%2, @a_weight_joined, None, [1, 1], [0, 0], [1, 1], 1)
        return (%3)""")


def test_a_branch_on_integers_keeps_all_apart() -> None:
    gm = written(quantize_second=True)
    text = brief(gm)
    assert joined(gm) == PassResult(0)
    assert brief(gm) == text


def test_what_one_chain_computes_otherwise_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    gm = branches()
    text = dump(gm)
    monkeypatch.setattr(join_ranges, "relative_error", lambda actual, expected: 0.02)
    (cat,) = gm.graph.find_nodes(op="call_function", target=aten.cat.default)
    reason = "one chain gives other values, by 0.02 of their magnitude"
    assert joined(gm) == PassResult(0, (Skip(cat.name, reason),))
    assert dump(gm) == text


@settings(max_examples=20, deadline=None)
@given(
    ranges=st.lists(st.floats(-6, 6), min_size=4, max_size=9),
    branches=st.integers(2, 4),
    stride=st.integers(1, 2),
)
def test_it_undoes_split_ranges(ranges: list[float], branches: int, stride: int) -> None:
    size = len(ranges)
    depthwise = nn.Conv2d(size, size, 3, groups=size, stride=stride)
    with torch.no_grad():
        depthwise.weight.mul_(torch.tensor(ranges).exp().view(-1, 1, 1, 1))
    forward = lambda m, x: m.c(F.hardswish(m.b(F.pad(F.hardswish(m.a(x)), (0, 1, 0, 1)))))  # noqa: E731
    gm = captured(forward, a=nn.Conv2d(3, size, 1), b=depthwise, c=nn.Conv2d(size, 2, 1))
    calls = [node.target for node in gm.graph.nodes if node.op == "call_function"]
    split = dataclasses.replace(SplitRanges(per_tensor_weights=True, multiple_of=1), branches=branches)
    changes = run_passes(gm, [split], PassContext(example_inputs=inputs(IMAGE)))["split-ranges"].changes
    assert joined(gm) == PassResult(changes)
    assert [node.target for node in gm.graph.nodes if node.op == "call_function"] == calls
