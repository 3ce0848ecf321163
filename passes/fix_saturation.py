"""No 16-bit pair sum saturates on the declared instruction set: proven for each output channel, or repaired.

Forms: every conv, transposed conv and linear that runs on integers, per-channel and per-tensor weights, any bias.
On x86 without VNNI two products are summed in int16; `compiler/quant/saturation.py` says when that is safe.
A channel where it can is repaired from its float weights, with the pairs that really meet in the target's kernel:
either the few weights above the limit move, or the channel's scale grows by up to a factor of 2, whichever adds
less to the squared error of its weights (`_pair_repair.py`). Other channels keep their integers. A weight that
several layers read keeps its scale where their kernels pair it differently. An int32 bias follows the scale.

It takes no data and costs nothing at run time; the artifact computes the same integers with and without VNNI.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, fx

from ..compiler.ir.constants import constant, set_constant
from ..compiler.ir.ops import bound_args
from ..compiler.ir.passes import Numerics, PassContext, PassResult, Skip
from ..compiler.ir.qops import DQC, is_dequantize
from ..compiler.ir.stages import Stage
from ..compiler.quant.isa import SAFE, choose_isa
from ..compiler.quant.program import IntegerStep, build_program, layers
from ..compiler.quant.qparams import QParams, dequantize
from ..compiler.quant.saturation import activation_bounds, by_output, pair_limit, pair_sums
from ._pair_repair import PairLayout, choose_scales, move_excess
from .insert_qdq import bias_qparams


@dataclass(frozen=True, slots=True)
class FixSaturation:
    """Repair the channels that can saturate on `isa`: a name that the target knows, `safe` or `native`.

    Without `rescale` scales stay and weights move only: for integers that were rounded with care, of which few are
    above the limit.
    """

    isa: str = SAFE
    rescale: bool = True

    name: ClassVar[str] = "fix-saturation"
    requires: ClassVar[Stage] = Stage.QUANTIZED
    ensures: ClassVar[Stage] = Stage.QUANTIZED
    numerics: ClassVar[Numerics] = "changes"

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> PassResult:
        """The number of changes is that of output channels whose integers are new; notes say how, by layer.

        Raises:
            InputError: the target knows nothing of this instruction set.
        """
        isa = None if ctx.target is None else choose_isa(ctx.target, self.isa)
        pairing = None if isa is None or ctx.target is None else ctx.target.saturation[isa]
        if pairing is None or ctx.target is None:
            return PassResult(0)
        program = build_program(gm, ctx.target, ctx.kept)
        bounds = activation_bounds(program)
        by_weight: dict[fx.Node, list[_Reader]] = {}
        for step in layers(program):
            reader = _Reader(step, partial(pairing, step), pair_limit(bounds[step.inputs[0]]))
            by_weight.setdefault(_dequantized(step).args[0], []).append(reader)  # type: ignore[arg-type]
        repairs = [_repair(gm, readers, ctx.reference, self.rescale) for readers in by_weight.values()]
        changed = [repair for repair in repairs if repair.channels]
        return PassResult(sum(repair.channels for repair in changed), notes=tuple(r.note() for r in changed))


@dataclass(frozen=True, slots=True)
class _Reader:
    """A step that reads a weight, with the pairs that its kernel makes and the limit of their sums."""

    step: IntegerStep
    pairing: Callable[[Tensor], Tensor]
    limit: int

    def saturates(self) -> bool:
        assert self.step.weight is not None
        return bool((pair_sums(self.pairing(self.step.weight)) > self.limit).any())


@dataclass(frozen=True, slots=True)
class _Repair:
    """What was done to a layer: channels changed, of how many, and the factor by which each scale grew."""

    layer: str
    channels: int = 0
    total: int = 0
    factors: tuple[float, ...] = ()

    def note(self) -> Skip:
        grown = [factor for factor in self.factors if factor > 1]
        scales = f"{len(grown)} of {len(self.factors)} scales larger, by up to {max(grown)}" if grown else ""
        how = scales or "weights moved, scales kept"
        return Skip(self.layer, f"{self.channels} of {self.total} channels repaired: {how}")


def _repair(
    gm: fx.GraphModule, readers: Sequence[_Reader], reference: fx.GraphModule | None, rescale: bool
) -> _Repair:
    """Store a weight within all limits."""
    step = readers[0].step
    if not any(reader.saturates() for reader in readers):
        return _Repair(step.anchor.name)
    weight, qp = step.weight, step.weight_qparams
    assert weight is not None
    assert qp is not None
    wanted = _float_weight(step, reference) / _shaped(qp, weight.ndim)
    layouts = [PairLayout.of(weight, reader.pairing, reader.limit) for reader in readers]
    if rescale and _pair_alike(layouts) and _may_rescale(readers):
        strictest = min(layouts, key=lambda layout: layout.limit)
        scale_of_row = torch.arange(len(strictest.places)) % len(qp.scale)
        repaired, factors = choose_scales(weight, wanted, strictest, (qp.qmin, qp.qmax), scale_of_row)
        scaled = replace(qp, scale=tuple((factors * torch.tensor(qp.scale)).tolist()))
        for reader in readers:
            _store_scales(gm, reader.step, scaled)
    else:
        repaired, factors = weight, torch.ones(len(qp.scale))
        for layout in layouts:
            repaired = move_excess(repaired, wanted, layout)
    set_constant(gm, str(_dequantized(step).args[0].target), repaired)  # type: ignore[union-attr]
    changed = by_output(step, repaired != weight).flatten(1).any(1)
    return _Repair(step.anchor.name, int(changed.sum()), len(changed), tuple(factors.tolist()))


def _dequantized(step: IntegerStep) -> fx.Node:
    """The dequantize node behind which the step's weight is."""
    node = bound_args(step.anchor)["weight"]
    assert isinstance(node, fx.Node)
    return node


def _float_weight(step: IntegerStep, reference: fx.GraphModule | None) -> Tensor:
    """What the integers stand for: the weight of the same node in the float graph, or the integers' own values."""
    assert step.weight is not None
    assert step.weight_qparams is not None
    nodes = [] if reference is None else [n for n in reference.graph.nodes if n.name == step.anchor.name]
    found = constant(reference, bound_args(nodes[0])["weight"]) if reference is not None and nodes else None
    if found is None or found.shape != step.weight.shape:
        return dequantize(step.weight, step.weight_qparams)
    return found.detach().float()


def _shaped(qp: QParams, ndim: int) -> Tensor:
    """The scales, to divide a weight by."""
    shape = [1] * ndim
    if qp.axis is not None:
        shape[qp.axis] = -1
    return qp.scale_tensor().reshape(shape)


def _pair_alike(layouts: Sequence[PairLayout]) -> bool:
    return all(torch.equal(layout.places, layouts[0].places) for layout in layouts)


def _may_rescale(readers: Sequence[_Reader]) -> bool:
    """Whether nothing but these steps reads the scales of their weight and of their integer biases."""
    anchors = {reader.step.anchor for reader in readers}
    parameters = {_dequantized(reader.step) for reader in readers}
    parameters |= {bias for anchor in anchors if is_dequantize(bias := bound_args(anchor)["bias"])}
    return all(
        anchors.issuperset(node.users)
        and all(parameters.issuperset(source.users) for source in node.all_input_nodes)
        for node in parameters
    )


def _store_scales(gm: fx.GraphModule, step: IntegerStep, qp: QParams) -> None:
    """New scales for the weight, and for an int32 bias, whose integers follow."""
    _set_scales(gm, _dequantized(step), qp)
    bias = bound_args(step.anchor)["bias"]
    if step.bias is None or step.bias.is_floating_point() or not is_dequantize(bias):
        return
    assert step.weight_qparams is not None
    ratio = step.weight_qparams.scale_tensor().double() / qp.scale_tensor().double()
    set_constant(gm, str(bias.args[0].target), torch.round(step.bias * ratio).to(torch.int32))
    _set_scales(gm, bias, bias_qparams(qp, step.in_qparams[0].scale[0]))


def _set_scales(gm: fx.GraphModule, node: fx.Node, qp: QParams) -> None:
    if node.target is DQC:
        set_constant(gm, str(node.args[1].target), qp.scale_tensor())  # type: ignore[union-attr]
    else:
        node.update_arg(1, qp.scale[0])
