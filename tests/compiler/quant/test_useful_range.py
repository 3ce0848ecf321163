import math

import pytest
import torch
from fxedge.compiler.quant.calibrate import calibrate
from fxedge.compiler.quant.collectors import CollectorMethod
from fxedge.compiler.quant.plan import Group
from fxedge.compiler.quant.useful_range import EVERYTHING, useful_range
from support import Calls, inputs
from torch import nn
from torch.nn import functional as F
from toy_target import TOY, captured, lower

X = inputs((2, 3, 6, 6))
CONV = nn.Conv2d(3, 4, 3, padding=1)


def of(function, *members):
    gm = captured(Calls(function, conv=CONV), *X)
    return useful_range(gm, Group(members, members[:1], TOY.activation))


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (F.hardswish, (-3, math.inf)),
        (F.hardsigmoid, (-3, 3)),
        (F.relu, (0, math.inf)),
        (lambda x: x.clamp(-2, 5), (-2, 5)),
        (F.silu, (-8, math.inf)),
        (F.elu, EVERYTHING),
    ],
)
def test_what_one_reader_sees(activation, expected):
    assert of(lambda m, x: activation(m.conv(x)), "conv2d") == expected


def test_two_readers_see_what_either_sees():
    assert of(lambda m, x: F.hardsigmoid(y := m.conv(x)) * F.relu(y), "conv2d") == (-3, math.inf)


def test_an_output_and_a_layer_see_everything():
    assert of(lambda m, x: (y := m.conv(x), F.hardswish(y)), "conv2d") == EVERYTHING
    assert of(lambda m, x: m.conv(m.conv(x)[:, :3]), "conv2d", "slice_tensor") == EVERYTHING


def test_readers_behind_an_op_that_shares_parameters_count():
    pooled = of(lambda m, x: F.hardswish(F.max_pool2d(m.conv(x), 2)), "conv2d", "max_pool2d")
    assert pooled == (-3, math.inf)


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_hardswish_keeps_its_digits_where_its_input_reaches_far_down(method: str):
    """Without the useful range the input's low end would be -40 and its step 45/255."""
    conv = nn.Conv2d(3, 4, 1)
    conv.bias = nn.Parameter(torch.tensor([-40.0, 0.0, 1.0, 2.0]))
    lowered = lower(nn.Sequential(conv, nn.Hardswish()), *X)
    group = next(group for group in lowered.plan.groups if "conv2d" in group.members)
    stats = calibrate(lowered.float_gm, [lowered.plan], [X], CollectorMethod(method))
    low, high = stats.range_of(group)
    assert -3.1 < low <= -2.5
    assert 1 < high < 8
