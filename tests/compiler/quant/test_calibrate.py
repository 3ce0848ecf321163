import dataclasses
import gc
import re
import weakref

import pytest
import torch
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.errors import CalibrationError
from fxedge.compiler.ir.ops import aten
from fxedge.compiler.quant import calibrate as calibrate_module
from fxedge.compiler.quant.calibrate import CalibrationStats, calibrate
from fxedge.compiler.quant.collectors import CollectorMethod, MinMax, make_collector
from fxedge.compiler.quant.plan import Group, Plan, plan_quantization
from fxedge.compiler.quant.qparams import QSpec
from support import Calls, Calls2, inputs
from torch import Tensor, fx, nn
from torch.nn import functional as F
from toy_target import TOY, TOY_SHARED_CAT, UINT8, captured

MINMAX = CollectorMethod("minmax")
INT8 = QSpec(-128, 127, torch.int8)


class Doubling(nn.Module):
    """conv of weight 2, no bias: every range is known from the input's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, groups=3, bias=False)
        nn.init.constant_(self.conv.weight, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self.conv(x).relu(), 2)


BATCHES = [(x,) for x in inputs((2, 3, 4, 4), (1, 3, 4, 4), (4, 3, 4, 4))]


def planned(model: nn.Module, *examples: Tensor) -> tuple[fx.GraphModule, Plan]:
    gm = captured(model, *examples)
    return gm, plan_quantization(gm, TOY)


@pytest.fixture
def doubling() -> tuple[fx.GraphModule, Plan]:
    return planned(Doubling(), *BATCHES[0])


def refuses(message: str):
    return pytest.raises(CalibrationError, match=f"^{re.escape(message)}$")


def test_ranges_are_those_of_all_batches(doubling):
    gm, plan = doubling
    stats = calibrate(gm, [plan], BATCHES, MINMAX)
    low = min(float(x.min()) for (x,) in BATCHES)
    high = max(float(x.max()) for (x,) in BATCHES)
    assert stats.ranges == {(("x",), UINT8): (low, high), (("relu",), UINT8): (0.0, 2 * high)}
    assert (stats.method, stats.samples) == ("minmax", 7)
    assert [stats.range_of(group) for group in plan.groups] == [(low, high), (0.0, 2 * high)]


def test_only_the_roots_of_a_group_are_observed(doubling, monkeypatch):
    gm, plan = doubling
    assert plan.groups[1].members == ("relu", "max_pool2d")
    shapes = []

    class Spy(MinMax):
        def observe(self, x: Tensor) -> None:
            shapes.append(tuple(x.shape))
            super().observe(x)

    monkeypatch.setattr(calibrate_module, "make_collector", lambda method: Spy())
    calibrate(gm, [plan], BATCHES[:1], MINMAX)
    assert shapes == [(2, 3, 4, 4), (2, 3, 4, 4)]


def test_one_pass_serves_several_plans():
    def function(m, x):
        return m.c(torch.cat([m.a(x), m.b(x)], 1))

    a, b, c = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1), nn.Conv2d(4, 2, 1)
    gm = captured(Calls(function, a=a, b=b, c=c), *BATCHES[0])
    specs = [TOY, TOY_SHARED_CAT, dataclasses.replace(TOY, activation=INT8)]
    plans = [plan_quantization(gm, spec) for spec in specs]
    passes = []

    def batches():
        passes.append("one")
        yield from BATCHES

    together = calibrate(gm, plans, batches(), MINMAX)
    assert passes == ["one"]
    for plan in plans:
        alone = calibrate(gm, [plan], BATCHES, MINMAX)
        assert [together.range_of(g) for g in plan.groups] == [alone.range_of(g) for g in plan.groups]
    shared = next(group for group in plans[1].groups if len(group.members) > 1)
    parts = [together.ranges[(name,), UINT8] for name in ("conv2d", "conv2d_1")]
    assert together.range_of(shared) == (min(low for low, _ in parts), max(high for _, high in parts))


def test_fixed_groups_need_no_statistics():
    gm, plan = planned(Calls(lambda m, x: m.a(x).sigmoid(), a=nn.Conv2d(3, 2, 1)), *BATCHES[0])
    stats = calibrate(gm, [plan], BATCHES, MINMAX)
    assert [observed for observed, _ in stats.ranges] == [("x",), ("conv2d",)]


def test_constants_are_observed_once(monkeypatch):
    gain = torch.tensor([[[-3.0]], [[1.0]], [[5.0]]])
    gm, plan = planned(Calls(lambda m, x: m.a(x) * m.gain, a=nn.Conv2d(3, 3, 1), gain=gain), *BATCHES[0])
    made = []
    monkeypatch.setattr(calibrate_module, "make_collector", lambda m: made.append(make_collector(m)) or made[-1])
    stats = calibrate(gm, [plan], BATCHES, MINMAX)
    assert stats.ranges[("gain",), UINT8] == (-3.0, 5.0)
    assert sorted(collector.seen for collector in made)[0] == gain.numel()


def test_the_graph_and_the_batches_are_not_touched(doubling):
    gm, plan = doubling
    text, copies = dump(gm), [x.clone() for (x,) in BATCHES]
    calibrate(gm, [plan], BATCHES, MINMAX)
    assert dump(gm) == text
    assert all(torch.equal(x, copy) for (x,), copy in zip(BATCHES, copies, strict=True))


def test_views_of_images_in_channels_last_memory():
    """Calibration runs convolutions in that order; a view of what they give is no longer one."""
    gm, plan = planned(Calls(lambda m, x: m.a(x).view(-1, 64) * 1.0, a=nn.Conv2d(3, 4, 1)), *BATCHES[0])
    assert any(node.target is aten.view.default for node in gm.graph.nodes)
    assert calibrate(gm, [plan], BATCHES, MINMAX).samples == 7


def test_progress_counts_samples(doubling):
    gm, plan = doubling
    done = []
    calibrate(gm, [plan], BATCHES, MINMAX, done.append)
    assert done == [2, 3, 7]


@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_no_activation_is_kept_after_its_batch(doubling, method):
    gm, plan = doubling
    alive: list[weakref.ref[Tensor]] = []
    left_over = []

    class Watched:
        """Yields batches, and looks whether what the batch before it gave is still there."""

        def __iter__(self):
            for shape in BATCHES:
                gc.collect()
                left_over.append(sum(ref() is not None for ref in alive))
                yield (shape[0].clone(),)

    conv = next(node for node in gm.graph.nodes if node.target is aten.conv2d.default)

    def watched(*args, **kwargs):
        result = aten.conv2d.default(*args, **kwargs)
        alive.append(weakref.ref(result))
        return result

    conv.target = watched
    calibrate(gm, [plan], Watched(), CollectorMethod.parse(method))
    assert len(alive) == 3
    assert left_over == [0, 0, 0]


def test_nan_names_the_edge(doubling):
    gm, plan = doubling
    bad = BATCHES[0][0].clone()
    bad[1, 2, 3, 3] = torch.nan
    with refuses("Calibration of x: saw NaN in a tensor of 96 elements, after 96 finite ones"):
        calibrate(gm, [plan], [BATCHES[0], (bad,)], MINMAX)


def test_an_infinity_inside_names_the_module():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Linear(4, 2, bias=False))
    nn.init.constant_(model[0].weight, 1.0)
    nn.init.zeros_(model[0].bias)
    nn.init.constant_(model[1].weight, 3e38)
    gm, plan = planned(model, *BATCHES[0])
    with refuses("Calibration of 1 (linear): saw inf in a tensor of 24 elements, after 0 finite ones"):
        calibrate(gm, [plan], [(torch.full((1, 3, 4, 4), 100.0),)], MINMAX)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((), "A calibration batch has 0 input(s) but the model takes 2: x, y."),
        ((BATCHES[0][0],) * 3, "A calibration batch has 3 input(s) but the model takes 2: x, y."),
        (
            (torch.zeros(2, 3, 4), torch.zeros(2, 3)),
            "Input x of the calibration batch after sample 2 is float32 [2, 3, 4]; "
            "the model was captured with float32 [any, 3, 4, 4].",
        ),
        (
            (torch.zeros(2, 3, 4, 4), torch.zeros(2, 5)),
            "Input y of the calibration batch after sample 2 is float32 [2, 5]; "
            "the model was captured with float32 [any, 3].",
        ),
        (
            (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, 3)),
            "Input x of the calibration batch after sample 2 is uint8 [2, 3, 4, 4]; "
            "the model was captured with float32 [any, 3, 4, 4].",
        ),
    ],
)
def test_wrong_inputs(batch, message):
    model = Calls2(lambda m, x, y: m.a(x).mean((2, 3)) + y, a=nn.Conv2d(3, 3, 1))
    good = inputs((2, 3, 4, 4), (2, 3))
    gm, plan = planned(model, *good)
    with refuses(message):
        calibrate(gm, [plan], [good, batch], MINMAX)


def test_inputs_that_do_not_go_together():
    gm, plan = planned(Calls2(lambda m, x, y: m.a(x) + y, a=nn.Linear(3, 3)), *inputs((2, 3), (2, 3)))
    with refuses(
        "The model cannot run on the calibration batch after sample 0 (float32 [4, 3], float32 [3, 3]): "
        "The size of tensor a (4) must match the size of tensor b (3) at non-singleton dimension 0"
    ):
        calibrate(gm, [plan], [(torch.zeros(4, 3), torch.zeros(3, 3))], MINMAX)


@pytest.mark.parametrize("batches", [[], [(torch.zeros(0, 3, 4, 4),)]])
def test_no_samples(doubling, batches):
    gm, plan = doubling
    with refuses("The calibration data has no samples; give at least one (some hundred are usual)."):
        calibrate(gm, [plan], batches, MINMAX)


def test_an_edge_that_saw_nothing():
    model = Calls(lambda m, x: (m.a(x), m.b(x[:, :, :0])), a=nn.Conv2d(3, 2, 1), b=nn.Linear(4, 2))
    gm, plan = planned(model, *BATCHES[0])
    with refuses(
        "The edge linear never saw data during calibration; check that the samples reach that part of the model."
    ):
        calibrate(gm, [plan], BATCHES, MINMAX)


def test_statistics_of_another_plan(doubling):
    gm, plan = doubling
    stats = calibrate(gm, [plan], BATCHES, MINMAX)
    with refuses("No statistics of add, relu; calibrate with this plan."):
        stats.range_of(Group(("add", "relu"), ("add",), UINT8))
    with refuses("No statistics of x; calibrate with this plan."):
        stats.range_of(Group(("x",), ("x",), INT8))


def test_statistics_are_a_value(doubling):
    gm, plan = doubling
    first, second = (calibrate(gm, [plan], BATCHES, CollectorMethod("mse")) for _ in range(2))
    assert isinstance(first, CalibrationStats)
    assert first == second
    assert list(first.ranges) == [(group.observed, group.spec) for group in plan.groups]
