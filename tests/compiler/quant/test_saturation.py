"""Pairs of weights as kernels lay them out, the limit of their sums, and the proof for a program."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from fxedge.compiler.quant.program import Program
from fxedge.compiler.quant.saturation import (
    SaturationProof,
    activation_bounds,
    any_two,
    in_one_row,
    pair_limit,
    pair_sums,
    prove_unsaturated,
    unpaired,
    unproven_here,
    within_taps,
)
from support import Calls
from torch import Tensor, nn
from torch.nn import functional as F
from toy_target import TOY, grid, lower

PAIRED = dataclasses.replace(TOY, saturation={"avx2": lambda step, weight: in_one_row(weight), "vnni": None})


def numbered(channels: int, taps: int) -> Tensor:
    """One output whose weight at channel c and tap t is 10 · c + t + 1."""
    return (10 * torch.arange(channels)[:, None] + torch.arange(taps) + 1).reshape(1, channels, taps)


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (in_one_row, [1, 11, 21, 2, 12, 22]),
        (within_taps, [1, 11, 21, 0, 2, 12, 22, 0]),
        (any_two, [1, 1, 2, 2, 11, 11, 12, 12, 21, 21, 22, 22]),
        (unpaired, []),
    ],
)
def test_layouts_of_three_channels_and_two_taps(layout, expected: list[int]):
    assert layout(numbered(3, 2)).tolist() == [expected]


def test_an_odd_row_ends_with_a_weight_alone():
    assert in_one_row(numbered(3, 1)).tolist() == [[1, 11, 21, 0]]


def test_sums_of_one_sign_count():
    paired = torch.tensor([[100, 27, -100, -28], [127, -127, 3, 0]], dtype=torch.int8)
    assert pair_sums(paired).tolist() == [[127, 128], [127, 3]]
    assert pair_sums(torch.zeros(2, 0)).tolist() == [[0], [0]]


@pytest.mark.parametrize("bound", [1, 100, 127, 255])
def test_the_limit_is_the_last_sum_within_int16(bound: int):
    limit = pair_limit(bound)
    assert limit * bound <= 2**15 - 1 < (limit + 1) * bound


def program(weight: Tensor, function=None) -> Program:
    """A linear whose stored integers are `weight` (its rows hold a 127 each)."""
    layer = nn.Linear(weight.shape[1], len(weight), bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    model = Calls(function or (lambda m, x: m.a(x)), a=layer)
    return lower(model, grid(4, weight.shape[1]), spec=PAIRED).program


WEIGHT = torch.tensor([[127.0, 1, -60, -60], [127, 2, 0, 0], [0, -127, -127, 0]])


def test_channels_that_can_saturate_are_named():
    proof = prove_unsaturated(program(WEIGHT), "avx2")
    assert proof == SaturationProof("avx2", channels=3, largest=255 * 129, unsafe={"linear": 1})


def test_layers_that_give_float_count_too():
    model = Calls(lambda m, x: m.a(x).sin(), a=nn.Linear(4, 3, bias=False))
    with torch.no_grad():
        model.a.weight.copy_(WEIGHT)
    floats = lower(model, grid(4, 4), spec=dataclasses.replace(PAIRED, float_results=True)).program
    assert prove_unsaturated(floats, "avx2") == prove_unsaturated(program(WEIGHT), "avx2")


def test_what_was_compiled_for_another_instruction_set_says_so_here():
    lowered = program(WEIGHT)
    proof = prove_unsaturated(lowered, "vnni")
    assert unproven_here(lowered, proof, "avx2") == (
        "It was compiled for vnni, and this machine has avx2, whose kernels add products in 16 bits: 1 "
        "output channels of 1 layers can saturate here, the first in linear. Compile and check it "
        "on a machine with vnni, or with --isa avx2."
    )
    assert unproven_here(lowered, prove_unsaturated(lowered, "avx2"), "avx2") == (
        "Its weights leave no room, and this machine has avx2, whose kernels add products in 16 bits: 1 output "
        "channels of 1 layers can saturate here, the first in linear. Quantize weights to 7 bits, or use a "
        "machine with VNNI."
    )
    assert unproven_here(lowered, proof, "vnni") is None
    assert unproven_here(lowered, proof, "neon") is None
    assert unproven_here(lowered, None, "avx2") is None
    harmless = program(WEIGHT[[0, 2]][:, :2])
    assert unproven_here(harmless, prove_unsaturated(harmless, "vnni"), "avx2") is None


def test_sums_in_32_bits_need_no_bounds():
    assert prove_unsaturated(program(WEIGHT), "vnni") == SaturationProof("vnni", channels=3)


def test_a_program_without_weights_has_no_channels():
    relu = lower(Calls(lambda m, x: x.relu()), grid(4, 4), spec=PAIRED).program
    assert prove_unsaturated(relu, "avx2") == SaturationProof("avx2", channels=0)


def test_a_clamp_that_the_step_does_bounds_its_result():
    def function(m, x):
        return m.a(F.hardtanh(m.b(x), -0.5, 0.25)) + x

    model = Calls(function, a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    lowered = lower(model, grid(4, 4), spec=PAIRED).program
    (clamped,) = [step for step in lowered.steps if getattr(step, "fused", ())]
    assert activation_bounds(lowered)[clamped.name] == clamped.clamp[1]
    narrowed = dataclasses.replace(clamped, clamp=(0, 99))
    steps = tuple(narrowed if step is clamped else step for step in lowered.steps)
    bounds = activation_bounds(dataclasses.replace(lowered, steps=steps))
    assert bounds[clamped.name] == max(99, clamped.out_qparams.zero_point[0])
