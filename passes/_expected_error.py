"""The mean error that rounding its weight gives a layer, from its expected input: (W - W_q) · E[x].

Nagel et al., *Data-Free Quantization* (2019), §4.2.1. E[x] has the input's own positions, so that the zeros of a
padded border count as what they are.
"""

from __future__ import annotations

from torch import Tensor, fx

from ..compiler.ir.constants import constant
from ..compiler.ir.ops import OPS, bound_args
from ..compiler.ir.passes import Skip
from ..compiler.quant.channel_stats import ChannelStats
from ..compiler.quant.expected import expected_values
from ..compiler.quant.program import IntegerStep
from ..compiler.quant.qparams import dequantize


class ExpectedErrors:
    """The layers of a float graph (annotated) with their expected inputs, by the names of their nodes."""

    def __init__(self, reference: fx.GraphModule, stats: ChannelStats) -> None:
        self._reference = reference
        self._layers = {node.name: node for node in reference.graph.nodes if node.target in OPS}
        self._expected = expected_values(reference, stats)

    def bias_for(self, step: IntegerStep) -> Tensor | Skip:
        """The bias with which `step` has the float layer's expected mean output: float64 [out]."""
        layer = self._layers[step.anchor.name]
        arguments = bound_args(layer)
        source, weight, bias = (
            layer.args[0],
            *(constant(self._reference, arguments[k]) for k in ("weight", "bias")),
        )
        assert isinstance(source, fx.Node)
        if source.name not in self._expected.known:
            return Skip(layer.name, f"the mean of its input is not known: {self._expected.unknown[source.name]}")
        if weight is None:
            return Skip(layer.name, f"the weight of {layer.name} is computed, not constant")
        assert step.weight is not None
        assert step.weight_qparams is not None
        lost = weight.double() - dequantize(step.weight, step.weight_qparams).double()
        attrs = {key: value for key, value in step.attrs.items() if key != "bias"}
        error = step.anchor.target(self._expected.known[source.name].mean, lost, None, **attrs)  # type: ignore[operator]
        by_channel = error.movedim(-1 - OPS[step.anchor.target].spatial, -1)  # type: ignore[index]
        missing = by_channel.flatten(0, -2).mean(0)
        return missing if bias is None else bias.double() + missing
