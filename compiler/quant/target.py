"""What a runtime accepts and computes, as data.

A `TargetSpec` is the only thing that plans, passes and the simulator know of a runtime: which ops it runs on
integers (`OpRule`), with which integer types, which ops share parameters, which activations its kernels fuse,
and the arithmetic of each kernel with the tolerance to which it is known. Nothing tests a target's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from torch import Tensor, fx
from torch._ops import OpOverload

from .arithmetic import Kernel
from .qparams import QParams, QSpec

if TYPE_CHECKING:  # program reads targets
    from .program import IntegerStep

BiasKind = Literal["float32", "int32"]
Support = Callable[[fx.Node], str | None]
TakesParameters = Callable[[fx.Node, tuple[QParams, ...], QParams], bool]
# A step and a tensor in the layout of its weight -> [output channels, 2 · pairs]: neighbours 2k and 2k + 1 are
# summed in one int16, zeros stand where there is no weight.
Pairing = Callable[["IntegerStep", Tensor], Tensor]


def always(node: fx.Node) -> str | None:
    """A support check for rules without limits: None means supported."""
    return None


@dataclass(frozen=True, slots=True)
class OpRule:
    """How one aten op runs on integers.

    `kernel` is its arithmetic and `tolerance` the LSB by which the runtime may differ from it (0: exact).
    `shared`: input and output must have equal parameters (pools, views, concat where the runtime demands it).
    `fixed`: the output's parameters are the op's own (softmax, sigmoid, tanh).
    `fuses`: activations that the kernel applies to its output at no cost.
    `adds`: before them, the kernel adds a second activation of its output's shape (a residual), without rounding.
    `weight`: the spec of its weight where it differs from the target's.
    `check` returns the reason why this node must stay float, or None. `takes` says whether the kernel takes these
    parameters of its inputs and its output: where it does not, the op runs in float between them.
    """

    kernel: Kernel
    tolerance: int = 0
    shared: bool = False
    fixed: QParams | None = None
    fuses: frozenset[OpOverload] = frozenset()
    adds: bool = False
    weight: QSpec | None = None
    check: Support = always
    takes: TakesParameters | None = None


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """One runtime. `ops` maps aten overloads to their integer rule; an op without one runs in float.

    `quantize` is the runtime's float -> integer step (x / scale or x · (1 / scale)); dequantization is the same
    everywhere. `isa` names the instruction sets on which the arithmetic was confirmed. `saturation` says for each
    instruction set that its kernels distinguish which weights they pair in 16-bit sums (None: they sum in 32
    bits), the one on which the most can go wrong first. `channel_clamp` says whether a clamp with a bound of its
    own for each channel is cheap: on every layer of an int8 MobileNetV2, fast ones add a third or less to its
    time, slow ones more than half. `also` names files in which the backend stores the artifact in further
    forms, for other loaders of the runtime; the suffix says which. `float_results`: where only float ops or the
    graph's outputs read a layer's result, its kernel gives it in float, as cheap as in integers.

    `float_tolerance` is what `verify` allows of float outputs at least, as a share of their magnitude: more where
    a bundle may be checked in another runtime than the one that it was compiled with. `own_runtime` is false where
    that one only stands in for the target's own: times measured there say nothing and are not.
    `float_prepared`: the float artifact is of the graph that was quantized, because files beside it name its
    tensors, instead of the model before the passes that prepare it for integers.
    `quantize_tolerance` are the LSB by which the runtime's quantize step on an input may differ from `quantize`.
    `kernels` has the same target where its runtime computes by other kernels: by the name of the instruction set
    that has them, or of the way of running it (`HasKernels`).
    """

    name: str
    activation: QSpec
    weight: QSpec
    bias: BiasKind
    ops: Mapping[OpOverload, OpRule]
    quantize: Callable[[Tensor, QParams], Tensor]
    isa: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    saturation: Mapping[str, Pairing | None] = field(default_factory=dict)
    channel_clamp: Literal["fast", "slow"] = "slow"
    also: tuple[str, ...] = ()
    float_results: bool = False
    float_tolerance: float = 1e-5
    own_runtime: bool = True
    float_prepared: bool = False
    quantize_tolerance: int = 0
    kernels: Mapping[str, TargetSpec] = field(default_factory=dict)


def with_kernels(
    spec: TargetSpec, kernels: Mapping[OpOverload, Kernel], tolerance: int | None = None
) -> TargetSpec:
    """`spec` where `kernels` compute these ops instead, to within `tolerance` (None: as before)."""
    ops = dict(spec.ops)
    for op, kernel in kernels.items():
        rule = replace(ops[op], kernel=kernel)
        ops[op] = rule if tolerance is None else replace(rule, tolerance=tolerance)
    return replace(spec, ops=ops)
