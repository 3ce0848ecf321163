"""Whether kernels that sum two products in int16 can saturate, from the integers that they will really see.

x86 kernels without VNNI multiply unsigned 8-bit activations by signed 8-bit weights two at a time (`vpmaddubsw`):
p = a·w + a'·w', saturated to int16. Activations enter as raw uint8 integers (their zero point is corrected in 32
bits afterwards), so a and a' lie in [0, A], A the bound that the producing step enforces. p stays in int16 for all
of them exactly if neither the positive nor the negative weights of a pair add up to more than 32767 // A in
magnitude: 128 for A = 255.

Which two weights meet is the kernel's business: a `Pairing` of the target says so. The ones here are shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ir.ops import CONV_TRANSPOSE
from .program import IntegerStep, Program, QuantizeStep, layers

INT16_MAX = 2**15 - 1


@dataclass(frozen=True, slots=True)
class SaturationProof:
    """What can be said of a program on `isa`. `channels` counts the output channels of every layer with weights;
    `unsafe` names the layers where some can saturate, and how many. `largest` is the largest pair sum that any
    activations can give, None where the kernels sum no pairs in 16 bits."""

    isa: str
    channels: int
    largest: int | None = None
    unsafe: Mapping[str, int] = field(default_factory=dict)


def prove_unsaturated(program: Program, isa: str) -> SaturationProof:
    """Bound every pair sum of `program` on `isa`, one of the instruction sets of its target."""
    pairing = program.spec.saturation[isa]
    channels, largest, unsafe = 0, None, {}
    bounds = activation_bounds(program)
    for step in layers(program):
        assert step.weight is not None
        if pairing is None:
            channels += len(by_output(step, step.weight))
            continue
        worst = pair_sums(pairing(step, step.weight)).amax(1)
        bound = bounds[step.inputs[0]]
        channels += len(worst)
        largest = max(largest or 0, int(worst.max()) * bound)
        if count := int((worst > pair_limit(bound)).sum()):
            unsafe[step.anchor.name] = count
    return SaturationProof(isa, channels, largest, unsafe)


def unproven_here(program: Program, proof: SaturationProof | None, native: str) -> str | None:
    """Why kernels of `native`, this machine's instruction set, may give other integers than `program`: they can
    saturate, since it was compiled for another one, or came quantized and was not repaired. None where not."""
    if proof is None or native not in program.spec.saturation:
        return None
    unsafe = prove_unsaturated(program, native).unsafe
    if not unsafe:
        return None
    where = (
        f"this machine has {native}, whose kernels add products in 16 bits: {sum(unsafe.values())} output "
        f"channels of {len(unsafe)} layers can saturate here, the first in {next(iter(unsafe))}."
    )
    if proof.isa == native:
        return f"Its weights leave no room, and {where} Quantize weights to 7 bits, or use a machine with VNNI."
    return (
        f"It was compiled for {proof.isa}, and {where} Compile and check it on a machine with {proof.isa}, or "
        f"with --isa {native}."
    )


def pair_limit(bound: int) -> int:
    """The largest sum of two weights of one sign that cannot saturate with activations in [0, `bound`]."""
    return INT16_MAX // max(bound, 1)


def pair_sums(paired: Tensor) -> Tensor:
    """[channels, 2 · pairs] as a `Pairing` gives it -> the larger of the positive and the negative sum of each
    pair, int32 [channels, max(pairs, 1)]."""
    pairs = paired.to(torch.int32).reshape(len(paired), -1, 2)
    sums = torch.maximum(pairs.clamp(min=0).sum(-1), -pairs.clamp(max=0).sum(-1))
    return F.pad(sums, [0, 1]) if sums.shape[1] == 0 else sums


def activation_bounds(program: Program) -> dict[str, int]:
    """Name -> the largest integer that each value can be: its dtype's own, or a clamp that the step does."""
    bounds = {name: int(value.max()) for name, value in program.constants.items()}
    for step in program.steps:
        if isinstance(step, QuantizeStep):
            bounds[step.name] = step.qparams.qmax
        elif isinstance(step, IntegerStep):
            # Padding puts the zero point beside the results.
            bounds[step.name] = max(step.clamp[1], step.out_qparams.zero_point[0])
    return bounds


def by_output(step: IntegerStep, weight: Tensor) -> Tensor:
    """A tensor in the layout of the step's weight as [out, in / groups, *kernel]."""
    if step.anchor.target not in CONV_TRANSPOSE:
        return weight
    groups = step.attrs["groups"]
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    return grouped.transpose(1, 2).flatten(0, 1)


def in_one_row(weight: Tensor) -> Tensor:
    """[out, in / groups, *kernel] -> [out, pairs of neighbours]: all taps one after the other, channels innermost.

    With an odd number of channels, pairs reach from one tap into the next.
    """
    row = weight.reshape(*weight.shape[:2], -1).transpose(1, 2).flatten(1)
    return F.pad(row, [0, row.shape[1] % 2])


def within_taps(weight: Tensor) -> Tensor:
    """[out, in / groups, *kernel] -> [out, pairs of neighbours]: pairs of channels at the same tap, the last of an
    odd number alone."""
    return in_one_row(F.pad(weight, [0, 0] * (weight.ndim - 2) + [0, weight.shape[1] % 2]))


def any_two(weight: Tensor) -> Tensor:
    """[out, in / groups, *kernel] -> [out, each weight beside itself]: where it is not known which weights meet.

    Two weights of at most half the limit each are within it.
    """
    return weight.flatten(1).repeat_interleave(2, 1)


def unpaired(weight: Tensor) -> Tensor:
    """No pairs: for kernels that sum every product in 32 bits."""
    return weight.new_zeros((len(weight), 0))
