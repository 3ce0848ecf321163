import dataclasses
import itertools

import pytest
import torch
from fxedge.compiler.quant.calibrate import CalibrationStats, calibrate, range_key
from fxedge.compiler.quant.collectors import CollectorMethod
from fxedge.compiler.quant.plan import Group, Plan, plan_quantization
from fxedge.compiler.quant.qparams import QSpec, choose_qparams
from fxedge.compiler.quant.range_search import _Search, search_ranges
from support import Calls, inputs
from torch import Tensor, fx, nn
from torch.nn import functional as F
from toy_target import TOY, TOY_SHARED_CAT, Rounding, captured

X = inputs((64, 3, 8, 8))[0]
SYMMETRIC = dataclasses.replace(TOY, name="toy-symmetric", activation=QSpec(-127, 127, torch.int8, symmetric=True))


class Deaf(nn.Module):
    """The first channel of `first` has most of the range, and `second` takes no notice of it."""

    def __init__(self, between=lambda x: x) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.between, self.first, self.second = between, nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.first.weight.data[0] *= 100
        self.second.weight.data[:, 0] = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x)))


class Mixed(nn.Module):
    """Channels that differ much in range and influence, and a concat."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(16, 5)
        self.first.weight.data[0] *= 20
        self.second.weight.data[:, 0] *= 0.01
        self.head.weight.data[:, 8] *= 0.01

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.first(x), 0.2)
        return self.head(torch.cat([self.second(x).mean((2, 3)), x.mean((2, 3))], 1))


def calibrated(model: nn.Module, *specs, x: Tensor = X) -> tuple[fx.GraphModule, list[Plan], CalibrationStats]:
    gm = captured(model.eval(), x)
    plans = [plan_quantization(gm, spec) for spec in specs]
    return gm, plans, calibrate(gm, plans, [(x,)], CollectorMethod("minmax"))


def searched(
    model: nn.Module, spec=TOY, x: Tensor = X, **options
) -> tuple[fx.GraphModule, Plan, CalibrationStats, CalibrationStats]:
    """The graph, its plan, and its ranges before and after a search on `x`."""
    gm, plans, stats = calibrated(model, spec, x=x)
    return gm, plans[0], stats, search_ranges(gm, plans, stats, [(x,)], [(x,)], **options)


def group_of(plan: Plan, name: str) -> Group:
    return next(group for group in plan.groups if name in group.members)


def noise(gm: fx.GraphModule, group: Group, low: float, high: float, x: Tensor = X) -> float:
    """What rounding the group's values in a range does to the output."""
    with torch.no_grad():
        given = Rounding(gm, group.members, choose_qparams(low, high, group.spec)).run(x)
        return float((given - gm(x)).square().sum())


@pytest.mark.parametrize("spec", [TOY, SYMMETRIC], ids=lambda spec: spec.name)
def test_what_the_outputs_take_no_notice_of_is_clipped(spec):
    gm, plan, stats, found = searched(Deaf(), spec)
    group = group_of(plan, "conv2d")
    (low, high), usual = found.range_of(group), stats.range_of(group)
    if spec is SYMMETRIC:
        usual = min(usual[0], -usual[1]), max(usual[1], -usual[0])
        assert low == -high
    assert all(0.399 < end / before < 0.501 for end, before in zip((low, high), usual, strict=True))
    share = (high - low) / (usual[1] - usual[0])
    assert noise(gm, group, low, high) == pytest.approx(share**2 * noise(gm, group, *usual), rel=0.25)
    assert (found.method, found.samples, set(found.ranges)) == (stats.method, stats.samples, set(stats.ranges))


@pytest.mark.parametrize("spec", [TOY, SYMMETRIC, TOY_SHARED_CAT], ids=lambda spec: spec.name)
def test_the_noise_at_the_output_is_near_the_least_that_ends_give(spec):
    gm, plan, stats, found = searched(Mixed(), spec)
    tried = [0.4, 0.6, 0.8, 1.0, 1.2]
    assert found.ranges != stats.ranges
    for group in plan.groups:
        low, high = stats.range_of(group)
        if spec is SYMMETRIC:
            low, high = min(low, -high), max(high, -low)
        pairs = zip(tried, tried, strict=True) if spec is SYMMETRIC else itertools.product(tried, tried)
        least = min(noise(gm, group, low * down, high * up) for down, up in pairs)
        assert noise(gm, group, *found.range_of(group)) < 1.6 * least, group.members


def test_ranges_stay_as_they_are_where_nothing_is_to_gain():
    torch.manual_seed(0)
    even = torch.rand(64, 8) * 2 - 1
    model = nn.Linear(8, 8)
    model.weight.data, model.bias.data = torch.eye(8), torch.zeros(8)
    *_, stats, found = searched(model, x=even)
    assert found == stats


def test_ranges_stay_as_they_are_where_no_output_tells_anything():
    *_, stats, found = searched(Calls(lambda self, x: self.net(x).argmax(1), net=Deaf()))
    assert found == stats


@pytest.mark.parametrize(
    ("reader", "kept"),
    [
        (F.hardswish, (True, False)),
        (lambda x: F.hardswish(-x), (False, False)),
        (F.hardsigmoid, (True, True)),
        (lambda x: x.clamp(-40, 40), (True, True)),
        (lambda x: x.clamp(max=40), (False, True)),
        (F.elu, (False, False)),
        (lambda x: F.hardswish(x) + x, (False, False)),
    ],
    ids=["hardswish", "of another sign", "hardsigmoid", "clamp", "clamp above", "elu", "two readers"],
)
def test_an_end_at_which_every_reader_saturates_stays(reader, kept):
    _, plan, stats, found = searched(Deaf(reader))
    group = group_of(plan, "conv2d")
    ends = zip(found.range_of(group), stats.range_of(group), strict=True)
    assert tuple(now == before for now, before in ends) == kept


def test_a_symmetric_range_stays_where_one_end_does():
    _, plan, stats, found = searched(Deaf(F.hardswish), SYMMETRIC)
    group = group_of(plan, "conv2d")
    assert choose_qparams(*found.range_of(group), group.spec) == choose_qparams(*stats.range_of(group), group.spec)


def test_fixed_parameters_are_not_searched():
    model = Calls(lambda self, x: self.net(x).sigmoid().mean((2, 3)), net=Deaf())
    _, plan, stats, found = searched(model)
    assert [group.members for group in plan.groups if group.fixed is not None] == [("sigmoid",)]
    assert set(found.ranges) == {range_key(group) for group in plan.groups if group.fixed is None}
    first = group_of(plan, "conv2d")
    assert found.range_of(first)[1] < 0.5 * stats.range_of(first)[1]


def test_plans_of_two_targets_get_what_each_gets_alone():
    gm, plans, stats = calibrated(Mixed(), TOY, TOY_SHARED_CAT)
    together = search_ranges(gm, plans, stats, [(X,)], [(X,)])
    assert together.ranges != stats.ranges
    assert len(stats.ranges) > max(len(plan.groups) for plan in plans)
    for plan in plans:
        alone = search_ranges(gm, [plan], stats, [(X,)], [(X,)])
        for group in plan.groups:
            assert together.range_of(group) == alone.range_of(group), group.members


def test_ranges_that_judged_samples_are_worse_with_are_not_taken():
    gm, plans, stats = calibrated(Mixed(), TOY)
    near = X * 0.05
    assert search_ranges(gm, plans, stats, [(near,)], [(X,)]) == stats
    assert search_ranges(gm, plans, stats, [(near,)], [(near,)]) != stats


def test_the_seed_decides():
    first, *others = (searched(Mixed(), x=X[:2], seed=seed)[-1] for seed in (0, 0, 1, 2, 3))
    assert first == others[0]
    assert any(first != other for other in others[1:])


def test_batches_are_read_once_and_all_count():
    gm, plans, stats = calibrated(Mixed(), TOY)
    seen = []
    halves = iter([(X[:32],), (X[32:],)])
    found = search_ranges(gm, plans, stats, halves, [(X,)], advance=seen.append)
    assert seen == [32, 64]
    assert next(halves, None) is None
    assert found != stats


@pytest.mark.parametrize("shape", [(6,), (8, 1, 1), (8, 6, 6), (1, 8, 6, 6)], ids=str)
def test_a_constant_is_searched_too(shape):
    constant = inputs(shape)[0]
    constant.flatten()[0] = 100  # of the deaf channel; of a column that has no weight
    model = Calls(lambda self, x: self.net(x), net=Deaf(), constant=constant)
    model.net.between = lambda x: x + model.constant
    if shape == (6,):
        model.net.second.weight.data[..., 0] = 0
        model.net.second.stride = (1, 4)
    gm, plan, stats, found = searched(model)
    (group,) = (group_of(plan, node.name) for node in gm.graph.nodes if node.name == "constant")
    assert stats.range_of(group)[1] == 100
    assert 39.9 < found.range_of(group)[1] < 50.1
    assert noise(gm, group, *found.range_of(group)) < 0.5 * noise(gm, group, *stats.range_of(group))


@pytest.mark.parametrize(("slope", "expected"), [(1.0, 0.0), (-1.0, 4.0)])
def test_what_is_clipped_at_both_ends_adds_up_with_its_signs(slope, expected):
    """-2 and 2, cut to -1 and 1: errors of 1 and -1, which cancel at an output that adds the two."""
    ends = 2 * torch.tensor([0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35])
    search = _Search(TOY.activation, -ends, ends, (True, True))
    search.add(torch.tensor([[-2.0, 2.0, 0.0]]), torch.tensor([[1.0, slope, 1.0]]))
    assert float(search.clipping[1, 1]) == pytest.approx(expected, abs=1e-6)
    assert float(search.clipping[1, 6]) == float(search.clipping[6, 1]) == pytest.approx(1.0)
