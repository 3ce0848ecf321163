"""Which weights torch's quantized kernels sum in pairs of 16 bits on x86 without VNNI.

Both libraries keep the weights of one output in a row, taps outside, channels of the group inside, and sum two
neighbours at a time. fbgemm's row is dense: with an odd number of channels, pairs reach from one tap into the
next. oneDNN rounds the channels of a tap up; its depthwise kernels (1d, 2d) sum in 32 bits. Where a group has one
channel in and the kernel is not a depthwise one, taps meet in an order that depends on the instruction set: any
two of them count as a pair. All of this on weights as the artifact has them, groups merged and taps added.

Settled with torch 2.13 under FBGEMM_ENABLE_INSTRUCTIONS=AVX2 and AVX512, ONEDNN_MAX_CPU_ISA=AVX2 and AVX512_CORE,
on an emulated Haswell, and on a processor that has AVX2 alone.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ...compiler.ir.ops import CONV, CONV_TRANSPOSE
from ...compiler.quant.program import IntegerStep
from ...compiler.quant.saturation import any_two, by_output, in_one_row, within_taps
from ...compiler.quant.target import Pairing
from .grouping import ConvShape, merge_groups, split_into_frames
from .roads import Roads
from .rules import output_size
from .transposed import TransposedShape, TransposeRoad, add_taps

# The weights of each output as [out, 2 · pairs], from [out, in / groups, *kernel] and the number of groups.
Row = Callable[[Tensor, int], Tensor]


def fbgemm_pairing(roads: Roads) -> Pairing:
    """Everything on fbgemm: under x86 too, which takes oneDNN with AVX512-VNNI alone."""
    return _engine_pairing(roads, _dense)


def onednn_pairing(roads: Roads) -> Pairing:
    """Everything on oneDNN."""
    return _engine_pairing(roads, _rounded_up)


def _engine_pairing(roads: Roads, row: Row) -> Pairing:
    """`row` says how the kernels lay out the weights of one output. A linear has a single tap, where both ways are
    the same."""

    def pairing(step: IntegerStep, weight: Tensor) -> Tensor:
        op = step.anchor.target
        if op in CONV:
            return row(*_as_packed(step, weight, roads))
        if op in CONV_TRANSPOSE:
            shape = TransposedShape.of(tuple(weight.shape), step.attrs)
            road = roads.transpose(shape)
            assert isinstance(road, TransposeRoad), road
            return row(by_output(step, add_taps(weight, road)), shape.groups)
        return in_one_row(weight)

    return pairing


def _dense(weight: Tensor, groups: int) -> Tensor:
    return in_one_row(weight)


def _rounded_up(weight: Tensor, groups: int) -> Tensor:
    depthwise = groups == len(weight) and weight.ndim <= 4
    return any_two(weight) if weight.shape[1] == 1 and not depthwise else within_taps(weight)


def _as_packed(step: IntegerStep, weight: Tensor, roads: Roads) -> tuple[Tensor, int]:
    """A convolution's weight and groups as the artifact has them."""
    shape = ConvShape.of(weight, step.attrs, output_size(step.anchor))
    road = roads.conv(shape)
    packed = merge_groups(weight, shape.groups, road.merge) if road.merge > 1 else weight
    return split_into_frames(packed) if road.frames else packed, shape.groups // road.merge
