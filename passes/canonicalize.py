"""One spelling for each operation, so that the passes and targets after this one meet few forms.

Dropped: dropout in eval mode, copies, casts to the same dtype; views, slices, pads, expands that change nothing.
Normal forms (`forms/normal_forms.py`):

    relu6, clamp by two numbers          -> hardtanh(low, high), floats; clamp_min(0) -> relu
    minimum, maximum, clamp by constants -> the same where the constant is one number, else clamp.Tensor
    conv with a padding string           -> conv with numbers, behind constant_pad_nd where "same" is lopsided
    convs, linear, pools, hardtanh       -> all arguments given, pool strides too
    pad(mode="constant")                 -> constant_pad_nd
    view, _unsafe_view                   -> reshape; one dynamic size in it becomes -1
    chunk, split into equal pieces       -> split_with_sizes, where the axis has a fixed size
    negative axes                        -> positive ones; reduced axes sorted
    add/sub with alpha, rsub, scalars    -> add/sub/mul/div.Tensor without alpha; a constant operand comes second
    upsample_*.default                   -> upsample_*.vec
    adaptive_avg_pool*d to one element   -> mean over the spatial axes

Core ATen, as a decomposed ExportedProgram holds it, goes back to the ops above (`forms/core_aten.py`):
convolution, _native_batch_norm_legit_no_training, native_layer_norm, addmm, mm, bmm, _softmax,
max_pool2d_with_indices. A product with a constant matrix becomes linear. scaled_dot_product_attention and
two-operand einsum become matmul (`forms/attention.py`); decomposed hard-sigmoid, hard-swish and silu are put
together (`forms/compose.py`). What reads only constants is computed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from ..compiler.ir.ops import aten
from ..compiler.ir.passes import Numerics, PassContext, PassResult, Skip
from ..compiler.ir.stages import Stage
from ._rewrite import replace
from .forms import attention, clamps, compose, constant_calls, core_aten, normal_forms, views

# A rule looks at one node and gives the node whose value stands for it (itself if it was edited in place), None
# if the rule does not apply, or a Skip if it should but cannot.
Rule = Callable[[fx.GraphModule, fx.Node], fx.Node | Skip | None]


@dataclass(frozen=True, slots=True)
class Canonicalize:
    """Bring every operation into its one normal form and drop those that do nothing."""

    name: ClassVar[str] = "canonicalize"
    requires: ClassVar[Stage] = Stage.FLOAT
    ensures: ClassVar[Stage] = Stage.FLOAT
    numerics: ClassVar[Numerics] = "close"

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> PassResult:
        total = 0
        while True:
            changes, skipped = _sweep(gm)
            changes = changes or constant_calls.fold(gm)
            if not changes:
                return PassResult(total, tuple(skipped))
            total += changes


def _sweep(gm: fx.GraphModule) -> tuple[int, list[Skip]]:
    """Apply to each live node the first rule that fits it."""
    changes, skipped = 0, []
    for node in list(gm.graph.nodes):
        if node.op != "call_function" or not node.users:
            continue
        match _apply(gm, node):
            case Skip() as skip:
                skipped.append(skip)
            case fx.Node() as result:
                changes += 1
                if result is not node:
                    replace(gm, node, result)
    gm.graph.eliminate_dead_code()
    return changes, skipped


def _apply(gm: fx.GraphModule, node: fx.Node) -> fx.Node | Skip | None:
    for rule in (*_ANY_OP, *_RULES.get(node.target, ())):
        if (result := rule(gm, node)) is not None:
            return result
    return None


_ANY_OP: tuple[Rule, ...] = (normal_forms.positional_arguments, normal_forms.positive_axes)


def _table(*parts: Mapping[object, Rule]) -> dict[object, tuple[Rule, ...]]:
    rules: dict[object, tuple[Rule, ...]] = {}
    for part in parts:
        for target, rule in part.items():
            rules[target] = (*rules.get(target, ()), rule)
    return rules


_RULES = _table(
    views.RULES,
    normal_forms.RULES,
    clamps.RULES,
    core_aten.RULES,
    attention.RULES,
    {aten.mul.Tensor: compose.gated},
    {aten.mul.Tensor: compose.hard, aten.div.Tensor: compose.hard},
    {operator.getitem: core_aten.first_result},
)
