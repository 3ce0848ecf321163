"""The noise model: what it predicts is what rounding costs, and it follows the factors as rescaling does."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.constants import constant, constant_nodes, set_constant
from fxedge.compiler.ir.passes import run_passes
from fxedge.compiler.quant.layer_options import LayerOptions
from fxedge.passes import Canonicalize
from fxedge.passes.channels.maps import ChannelMap, channel_map
from fxedge.passes.channels.noise import NoiseModel, measure_noise
from fxedge.passes.channels.rescale import rescale
from support import Calls, inputs
from torch import Tensor, fx, nn
from torch.nn import functional as F


def _net() -> tuple[fx.GraphModule, Tensor]:
    torch.manual_seed(0)
    model = Calls(
        lambda m, x: m.d(F.relu(m.c(F.leaky_relu(m.b(F.relu6(m.a(x))), 0.1))).mean((2, 3))),
        a=nn.Conv2d(3, 8, 3, padding=1),
        b=nn.Conv2d(8, 8, 3, groups=8),
        c=nn.ConvTranspose2d(8, 6, 3),
        d=nn.Linear(6, 10),
    )
    (x,) = inputs((32, 3, 8, 8))
    gm = capture(model.eval(), (x,))
    run_passes(gm, [Canonicalize()])
    return gm, x


def _model(gm: fx.GraphModule, x: Tensor, per_tensor: bool = True, bits: int = 8) -> tuple[NoiseModel, ChannelMap]:
    channels, options = channel_map(gm), LayerOptions(weight_bits=bits, per_tensor=per_tensor)
    return measure_noise(gm, channels, [(x,)], lambda node: options, seed=0), channels


def _zeros(channels: ChannelMap) -> Tensor:
    return torch.zeros(channels.count, dtype=torch.float64)


def _rounded(weight: Tensor, per_tensor: bool, axis: int) -> Tensor:
    others = [other for other in range(weight.ndim) if other != axis]
    largest = weight.abs().max() if per_tensor else weight.abs().amax(others, keepdim=True)
    return torch.round(weight / (largest / 127)) * (largest / 127)


@pytest.mark.parametrize("per_tensor", [True, False])
def test_predicts_what_rounding_the_weights_costs(per_tensor: bool) -> None:
    gm, x = _net()
    model, channels = _model(gm, x, per_tensor)
    predicted = NoiseModel(model.weights, ()).total(_zeros(channels)) / 32
    expected = gm(x)
    for node in constant_nodes(gm):
        weight = constant(gm, node)
        assert weight is not None
        if weight.ndim > 1:
            axis = 1 if weight.shape == (8, 6, 3, 3) else 0
            set_constant(gm, str(node.target), _rounded(weight, per_tensor, axis))
    scale = expected.square().mean()
    measured = ((gm(x) - expected).square().sum(1) / scale).mean()
    assert abs(10 * math.log10(measured / predicted)) < 3


def test_fewer_bits_are_wider_steps() -> None:
    gm, x = _net()
    noise = {bits: NoiseModel(_model(gm, x, bits=bits)[0].weights, ()) for bits in (8, 4)}
    zeros = _zeros(channel_map(gm))
    assert noise[4].total(zeros) == pytest.approx(noise[8].total(zeros) * (127 / 7) ** 2)


def test_layers_differ_in_bits_and_a_float_one_has_no_noise() -> None:
    gm, x = _net()
    channels = channel_map(gm)
    special = {"conv2d": LayerOptions(quantize=False), "linear": LayerOptions(weight_bits=3, per_tensor=False)}
    usual = LayerOptions(per_tensor=True)
    model = measure_noise(gm, channels, [(x,)], lambda node: special.get(node.name, usual), seed=0)
    found = {item.layer.node.name: (item.steps, item.per_tensor) for item in model.weights}
    assert (found["conv2d"][0], found["conv2d_1"], found["linear"]) == (math.inf, (127, True), (3, False))
    alone = NoiseModel(tuple(item for item in model.weights if item.layer.node.name == "conv2d"), ())
    assert (alone.total(_zeros(channels)), float(alone.smooth(_zeros(channels)))) == (0, 0)


def test_values_between_float_layers_have_no_noise() -> None:
    (x,) = inputs((4, 3, 8, 8))
    model = Calls(
        lambda m, x: m.d(m.c(m.b(F.relu(m.a(x))))),
        **{name: nn.Conv2d(3, 3, 1) for name in "abc"},
        d=nn.Conv2d(3, 3, 3, groups=3),
    )
    gm = capture(model.eval(), (x,))
    run_passes(gm, [Canonicalize()])

    def rounded_between(*floats: str) -> int:
        options = LayerOptions(per_tensor=True)
        model = measure_noise(
            gm,
            channel_map(gm),
            [(x,)],
            lambda node: dataclasses.replace(options, quantize=False) if node.name in floats else options,
            seed=0,
        )
        return len(model.values)

    assert rounded_between() == 3  # after a, b and c; the graph's input and output keep their scale
    assert rounded_between("conv2d_1") == 3  # what it reads and gives is still integers beside it
    assert rounded_between("conv2d_1", "conv2d_2") == 2
    assert rounded_between("conv2d", "conv2d_1", "conv2d_2", "conv2d_3") == 1  # the relu is an op on integers


@pytest.mark.parametrize("per_tensor", [True, False])
def test_follows_the_factors(per_tensor: bool) -> None:
    gm, x = _net()
    model, channels = _model(gm, x, per_tensor)
    factors = 2.0 ** torch.randint(-3, 4, (channels.count,), generator=torch.Generator().manual_seed(0)).double()
    factors[~channels.free] = 1
    predicted = model.total(factors.log())
    assert predicted > 1.5 * model.total(_zeros(channels))
    rescale(gm, channels, factors)
    gm.recompile()
    rescaled, _ = _model(gm, x, per_tensor)
    assert rescaled.total(_zeros(channels)) == pytest.approx(predicted, rel=1e-6)


@pytest.mark.parametrize("per_tensor", [True, False])
def test_the_smooth_form_lies_a_little_above_and_is_convex(per_tensor: bool) -> None:
    gm, x = _net()
    model, channels = _model(gm, x, per_tensor)
    generator = torch.Generator().manual_seed(0)
    points = torch.randn((20, channels.count), generator=generator, dtype=torch.float64)
    for left, right in zip(points[::2], points[1::2], strict=True):
        assert model.total(left) < float(model.smooth(left)) < 3 * model.total(left)
        for noise in (model.total, lambda logs: float(model.smooth(logs))):
            assert noise((left + right) / 2) <= (noise(left) + noise(right)) / 2
