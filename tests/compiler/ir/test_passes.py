"""The pass runner: order, clean-up, numerics promises with rollback, errors that name the pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.constants import get_constant, set_constant
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.errors import PassError
from fxedge.compiler.ir.ops import aten
from fxedge.compiler.ir.passes import (
    Numerics,
    PassContext,
    PassReport,
    PassResult,
    Skip,
    evaluate,
    relative_error,
    run_passes,
)
from fxedge.compiler.ir.stages import Stage
from fxedge.compiler.quant.channel_stats import ChannelStat, ChannelStats
from support import Calls, inputs
from torch import fx, nn

Body = Callable[[fx.GraphModule, PassContext], int]


@dataclass(frozen=True, slots=True)
class Exact:
    """A pass whose work is a function."""

    body: Body
    name: ClassVar[str] = "exact"
    requires: ClassVar[Stage] = Stage.FLOAT
    ensures: ClassVar[Stage] = Stage.FLOAT
    numerics: ClassVar[Numerics] = "exact"

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> PassResult:
        return PassResult(self.body(gm, ctx), (Skip("x", "not my business"),))


class Close(Exact):
    name: ClassVar[str] = "close"
    numerics: ClassVar[Numerics] = "close"


class Changes(Exact):
    name: ClassVar[str] = "changes"
    numerics: ClassVar[Numerics] = "changes"


EXAMPLE = inputs((4, 3))


def _linear() -> fx.GraphModule:
    return capture(nn.Sequential(nn.Linear(3, 2, bias=False)), EXAMPLE)


def _scale_weight(factor: float) -> Body:
    def body(gm: fx.GraphModule, ctx: PassContext) -> int:
        weight = get_constant(gm, "0.weight")
        assert weight is not None
        set_constant(gm, "0.weight", weight * factor)
        if ctx.channel_stats is not None:
            ctx.channel_stats.by_weight["0.weight"] = ChannelStat(torch.ones(2) * factor, torch.ones(2))
        return 1

    return body


def _nothing(gm: fx.GraphModule, ctx: PassContext) -> int:
    return 0


def test_a_kept_promise_is_measured() -> None:
    report = run_passes(_linear(), [Close(_scale_weight(1 + 1e-5))], PassContext(example_inputs=EXAMPLE))
    assert report["close"] == PassResult(1, (Skip("x", "not my business"),))
    assert report.max_error["close"] == pytest.approx(1e-5, rel=0.1)


@pytest.mark.parametrize(
    ("kind", "factor", "reason"),
    [
        (Exact, 1.5, "promised exact but changed an output by 0.5 of its magnitude (allowed 0)"),
        (Close, 2.0, "promised close but changed an output by 1 of its magnitude (allowed 0.0001)"),
    ],
)
def test_a_broken_promise_is_rolled_back(kind: type[Exact], factor: float, reason: str) -> None:
    gm = _linear()
    before, text = get_constant(gm, "0.weight"), dump(gm)
    stats = ChannelStats({"0.weight": ChannelStat(torch.zeros(2), torch.zeros(2))})
    ctx = PassContext(example_inputs=EXAMPLE, channel_stats=stats)
    result = run_passes(gm, [kind(_scale_weight(factor))], ctx)[kind.name]
    assert result == PassResult(0, (Skip("x", "not my business"),), rolled_back=reason)
    assert torch.equal(get_constant(gm, "0.weight"), before)
    assert dump(gm) == text
    assert ctx.channel_stats is not None
    assert ctx.channel_stats.by_weight["0.weight"].mean.tolist() == [0, 0]


def test_later_passes_are_held_to_what_the_earlier_ones_left() -> None:
    passes = [Changes(_scale_weight(3.0)), Close(_nothing), Close(_scale_weight(1.0)), Close(_scale_weight(2.0))]
    report = run_passes(_linear(), passes, PassContext(example_inputs=EXAMPLE))
    assert list(report) == ["changes", "close", "close#2", "close#3"]
    assert report["close#2"].rolled_back is None
    assert report["close#3"].rolled_back is not None
    assert "changes" not in report.max_error


def test_without_example_inputs_nothing_is_checked() -> None:
    report = run_passes(_linear(), [Exact(_scale_weight(2.0))])
    assert report["exact"].changes == 1
    assert report.max_error == {}


def test_dead_nodes_and_constants_go() -> None:
    def body(gm: fx.GraphModule, ctx: PassContext) -> int:
        linear = next(node for node in gm.graph.nodes if node.op == "call_function")
        linear.replace_all_uses_with(linear.args[0])
        return 1

    gm = _linear()
    run_passes(gm, [Changes(body)])
    assert dump(gm) == "%0 = input input\nreturn %0"
    assert get_constant(gm, "0.weight") is None
    assert torch.equal(gm(EXAMPLE[0]), EXAMPLE[0])


def test_shapes_of_new_nodes_are_computed() -> None:
    def body(gm: fx.GraphModule, ctx: PassContext) -> int:
        linear = next(node for node in gm.graph.nodes if node.op == "call_function")
        with gm.graph.inserting_after(linear):
            new = gm.graph.call_function(aten.unsqueeze.default, (linear, 1))
        linear.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
        return 1

    gm = _linear()
    run_passes(gm, [Changes(body)])
    new = next(node for node in gm.graph.nodes if node.target is aten.unsqueeze.default)
    batch, *rest = new.meta["val"].shape
    assert not isinstance(batch, int)
    assert rest == [1, 2]


def test_an_error_names_the_pass_and_those_before_it() -> None:
    def fail(gm: fx.GraphModule, ctx: PassContext) -> int:
        set_constant(gm, "0.weight", torch.zeros(2, 3))
        raise KeyError("conv2d")

    gm = _linear()
    weight = get_constant(gm, "0.weight")
    with pytest.raises(PassError) as caught:
        run_passes(gm, [Exact(_nothing), Close(fail)])
    assert str(caught.value) == "Pass close failed with KeyError (passes before it: exact): 'conv2d'"
    assert torch.equal(get_constant(gm, "0.weight"), weight)


def test_a_graph_that_the_verifier_refuses_is_undone() -> None:
    def break_it(gm: fx.GraphModule, ctx: PassContext) -> int:
        linear = next(node for node in gm.graph.nodes if node.op == "call_function")
        linear.target = torch.nn.functional.linear
        return 1

    gm = _linear()
    text = dump(gm)
    with pytest.raises(PassError) as caught:
        run_passes(gm, [Close(break_it)])
    assert str(caught.value) == (
        "Pass close failed (passes before it: none): 0 (linear) calls linear, which is not an aten overload"
    )
    assert dump(gm) == text


def test_relative_error() -> None:
    two = torch.tensor([2.0, -4.0])
    assert relative_error([two, two + 1], [two, two]) == 0.25
    assert relative_error([two], [two[:1]]) == float("inf")
    assert relative_error([two * float("nan")], [two]) == float("inf")
    assert relative_error([torch.zeros(0)], [torch.zeros(0)]) == 0.0


def test_evaluate_flattens() -> None:
    gm = capture(Calls(lambda m, x: {"a": x, "b": (x + 1, [x + 2])}), EXAMPLE)
    (x,) = EXAMPLE
    for actual, expected in zip(evaluate(gm, EXAMPLE), (x, x + 1, x + 2), strict=True):
        assert torch.equal(actual, expected)


def test_a_looker_on_sees_the_graph_after_each_pass():
    seen = []

    def after(gm: fx.GraphModule, name: str, report: PassReport) -> None:
        weight = get_constant(gm, "0.weight")
        assert weight is not None
        assert name == list(report)[-1]
        seen.append((name, report[name].rolled_back is not None, float(weight[0, 0])))

    gm = _linear()
    first = float(get_constant(gm, "0.weight")[0, 0])
    passes = [Changes(_scale_weight(2.0)), Exact(_scale_weight(3.0)), Changes(_scale_weight(2.0))]
    run_passes(gm, passes, PassContext(example_inputs=EXAMPLE), after)
    assert seen == [("changes", False, 2 * first), ("exact", True, 2 * first), ("changes#2", False, 4 * first)]
