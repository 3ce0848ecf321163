import dataclasses
import math

import pytest
import torch
from fxedge.backends import registry
from fxedge.compiler.pipeline.calibration import collect
from fxedge.compiler.pipeline.float_budget import (
    FloatBudget,
    Relieved,
    multiplications,
    spend_float_budget,
    within_budget,
)
from fxedge.compiler.pipeline.lower import FloatModel, lower, plan_targets, prepare
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.quant.simulate import simulate
from support import inputs
from torch import Tensor, nn
from toy_target import captured

SPEC = registry.get("onnx").spec
FAST = CompileOptions(recipe="fast", float_budget=0.3)


class Uneven(nn.Module):
    """The stem's channels differ by a factor of 3,000, and the small ones carry the result; the rest is benign."""

    def __init__(self, ratio: float = 3e3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.middle, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 32, 3)
        self.head = nn.Linear(32, 5)
        self.stem.weight.data[0] *= ratio
        self.middle.weight.data[:, 0] /= ratio

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.middle(nn.functional.hardswish(self.stem(x))).relu()).relu()
        return self.head(x.mean((2, 3)))


X = inputs((16, 3, 12, 12))[0] * torch.linspace(0.2, 3.0, 16).view(-1, 1, 1, 1)


def prepared(model: nn.Module, options: CompileOptions = FAST) -> FloatModel:
    return prepare(model.eval(), (X[:2],), options, batches=lambda: iter([(X[:8],), (X[8:],)]))


def spent(model: FloatModel, options: CompileOptions = FAST) -> Relieved:
    plans = plan_targets(model, [SPEC], options)
    stats = collect(model, plans, [(X,)], options)
    return within_budget(model, SPEC, plans["onnx"], stats, options)


def spent_directly(module: nn.Module, budget: float, goal: float) -> FloatBudget:
    model = prepared(module)
    plans = plan_targets(model, [SPEC], FAST)
    stats = collect(model, plans, [(X,)], FAST)
    return spend_float_budget(model.gm, plans["onnx"], stats, [(X[:8],)], budget, goal)


def sqnr(model: FloatModel, found: Relieved, x: Tensor = X) -> float:
    program = lower(model, SPEC, found.plan, found.stats, FAST).program
    with torch.no_grad():
        wanted = model.gm(x)
        got = next(iter(simulate(program, (x,)).outputs.values()))
    varies = (wanted - wanted.mean(0)).square().sum() * len(x) / (len(x) - 1)
    return float(10 * torch.log10(varies / (got - wanted).square().sum()))


def test_what_integers_would_ruin_stays_float_and_the_plan_says_why():
    model = prepared(Uneven())
    without = spent(model, dataclasses.replace(FAST, float_budget=0.0))
    found = spent(model)
    assert without.budget is None
    assert [skip.node for skip in without.plan.floats] == []
    assert [skip.node for skip in found.plan.floats] == ["stem (conv2d)", "hardswish", "middle (conv2d_1)", "relu"]
    reason = found.plan.floats[0].reason
    assert reason.startswith("kept float: rounding conv2d alone would leave the outputs ")
    assert reason.endswith(" dB")
    assert sqnr(model, found) > sqnr(model, without) + 10


def test_the_prediction_is_what_comes_of_it():
    model = prepared(Uneven())
    found = spent(model)
    assert found.budget is not None
    assert found.budget.after <= 10**-2 < found.budget.before
    assert sqnr(model, found, X[:8]) == pytest.approx(-10 * math.log10(found.budget.after), abs=1.0)
    (note,) = found.notes()
    assert note.startswith(
        f"{len(found.budget.reasons)} ops stay float, for {found.budget.share:.1%} of the multiplications beyond "
    )


def test_a_net_that_quantizes_well_is_left_alone():
    found = spent(prepared(Uneven(ratio=1.0)))
    assert found.budget is None
    assert found.notes() == ()


@pytest.mark.parametrize("budget", [0.01, 0.05, 0.2, 0.5])
def test_the_budget_is_kept(budget: float):
    found = spent_directly(Uneven(ratio=1e5), budget, goal=16.0)
    assert found.share <= budget
    assert found.after <= found.before


@pytest.mark.parametrize(
    "options",
    [
        dataclasses.replace(FAST, float_budget=None),
        dataclasses.replace(FAST, float_budget=0.0),
        dataclasses.replace(FAST, max_drop=1.0),
        CompileOptions(recipe="data-free"),
    ],
    ids=["fast", "none", "max-drop", "data-free"],
)
def test_nothing_is_spent_where_nothing_may_be(options: CompileOptions):
    model = prepared(Uneven(), FAST)
    assert spent(model, options).budget is None


class Light(nn.Module):
    """A stem of few products, an activation, and a layer of many."""

    def __init__(self, activation) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.last, self.activation = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 32, 3), activation

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.activation(self.stem(x)))


@pytest.mark.parametrize(
    ("activation", "kept"),
    [(nn.functional.hardswish, ["conv2d", "hardswish"]), (nn.functional.relu, [])],
    ids=["hardswish", "relu"],
)
def test_few_products_before_an_activation_that_no_kernel_takes_in_cost_nothing(activation, kept: list[str]):
    """Beyond 24 for each element they do (27 here, 72 in the other layer), so 2 % of all will do."""
    found = spent_directly(Light(activation), 0.02, goal=60.0)
    assert list(found.reasons) == kept
    assert found.share == pytest.approx((27 - 24) * 800 / (27 * 800 + 72 * 2048) if kept else 0.0)


def test_nothing_is_spent_without_samples():
    model = prepare(Uneven().eval(), (X[:2],), FAST)
    assert spent(model).budget is None


def test_multiplications_of_a_sample():
    gm = captured(
        nn.Sequential(
            nn.Conv2d(4, 8, 3, groups=2),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 6, 2, stride=2),
            nn.Flatten(),
            nn.Linear(216, 5),
        ).eval(),
        inputs((2, 4, 5, 5))[0],
    )
    found = {str(node.target): multiplications(gm, node) for node in gm.graph.nodes if node.op == "call_function"}
    assert found["aten.conv2d.default"] == 9 * 8 * 2 * 9
    assert found["aten.conv_transpose2d.input"] == 9 * 8 * 6 * 4
    assert found["aten.linear.default"] == 216 * 5
    assert found["aten.relu.default"] == 8 * 9 * 8
