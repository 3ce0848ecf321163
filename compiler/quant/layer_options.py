"""What a user wants of single layers, by glob over module paths and node names."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

from torch import fx

from ..ir.errors import InputError
from ..ir.nodes import module_paths
from .qparams import QSpec
from .weight_range import WeightRange

BITS = range(2, 9)


@dataclass(frozen=True, slots=True)
class LayerOptions:
    """Choices for the layers that a glob names; None leaves a choice as it is without the glob.

    `quantize` False keeps them float, True takes back an earlier glob's False. `weight_bits` (2 to 8; 8 is the
    target's own range) is the size of their weights' integers, which stay int8; `per_tensor` gives a weight one
    scale; `weight_range` as in `weight_range.py`.

    Raises:
        InputError: `weight_bits` is not one of 2 to 8.
    """

    quantize: bool | None = None
    weight_bits: int | None = None
    per_tensor: bool | None = None
    weight_range: WeightRange | None = None

    def __post_init__(self) -> None:
        if self.weight_bits is not None and self.weight_bits not in BITS:
            raise InputError(f"Weights cannot have {self.weight_bits} bits; allowed: 2 to 8.")

    def over(self, other: LayerOptions) -> LayerOptions:
        """These choices, and those of `other` where this has none."""
        chosen = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(other, **{name: value for name, value in chosen.items() if value is not None})

    def weight_spec(self, spec: QSpec) -> QSpec:
        """`spec` with `weight_bits` (symmetric: one integer fewer than there could be) and `per_tensor`."""
        bits = self.weight_bits or 8
        if bits < 8:
            limit = 2 ** (bits - 1) - 1
            spec = replace(spec, qmin=max(spec.qmin, -limit), qmax=min(spec.qmax, limit))
        return replace(spec, per_channel=spec.per_channel and not self.per_tensor)


def layer_options(gm: fx.GraphModule, layers: Mapping[str, LayerOptions]) -> dict[fx.Node, LayerOptions]:
    """What the globs of `layers` say of each call that one of them matches; a later glob wins.

    Raises:
        InputError: a glob matches nothing.
    """
    found: dict[fx.Node, LayerOptions] = {}
    for glob, options in layers.items():
        nodes = calls_matching(gm, glob)
        if not nodes:
            raise InputError(f"Options for the layers {glob!r} apply to nothing: {NO_MATCH}")
        found |= {node: options.over(found.get(node, LayerOptions())) for node in nodes}
    return found


def matching_options(gm: fx.GraphModule, layers: Mapping[str, LayerOptions]) -> dict[fx.Node, LayerOptions]:
    """The same, without the globs that match nothing: of those the plan complains."""
    return layer_options(gm, {glob: options for glob, options in layers.items() if calls_matching(gm, glob)})


NO_MATCH = (
    "no module or node of the captured graph is called so (batch norms and dropout are gone by then). "
    "fxedge inspect shows what there is."
)


def options_over(
    gm: fx.GraphModule, usual: LayerOptions, layers: Mapping[str, LayerOptions]
) -> Callable[[fx.Node], LayerOptions]:
    """The options of each layer: `usual`, but for what `layers` say of it by glob."""
    special = matching_options(gm, layers)
    return lambda node: special.get(node, LayerOptions()).over(usual)


def calls_matching(gm: fx.GraphModule, glob: str) -> list[fx.Node]:
    """Calls whose name, or the path of a module around them, matches; a module stands for all that it contains."""
    calls = [node for node in gm.graph.nodes if node.op == "call_function"]
    return [node for node in calls if fnmatch.filter((node.name, *module_paths(node)), glob)]
