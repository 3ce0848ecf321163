"""What is proposed to be split, and how much it counts."""

from __future__ import annotations

import pytest
import torch
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.passes import PassContext, run_passes
from fxedge.compiler.ir.shapes import annotate
from fxedge.compiler.quant.layer_options import LayerOptions
from fxedge.passes import Canonicalize
from fxedge.passes.splitting.budget import Candidate
from fxedge.passes.splitting.candidates import WeightFormat, find_candidates, layer_of
from fxedge.passes.splitting.copies import find_sites
from fxedge.passes.splitting.weight_noise import Rows
from support import Calls, inputs
from torch import fx, nn
from torch.nn import functional as F

X = inputs((12, 3, 6, 6))
FORMAT = LayerOptions(quantize=True, weight_bits=8, per_tensor=False, weight_range="minmax")


def captured(last_gain: float = 1.0) -> fx.GraphModule:
    """Two ways from the input, each of a conv, a ReLU and a conv; `last_gain` is how much the second one gives."""
    torch.manual_seed(0)
    model = Calls(
        lambda m, x: m.b(F.relu(m.a(x))) + last_gain * m.d(F.relu(m.c(x))),
        a=nn.Conv2d(3, 4, 3),
        b=nn.Conv2d(4, 5, 1),
        c=nn.Conv2d(3, 4, 3),
        d=nn.Conv2d(4, 5, 1),
    )
    gm = capture(model.eval(), tuple(x[:2] for x in X))
    run_passes(gm, [Canonicalize()])
    annotate(gm)
    return gm


def candidates(
    gm: fx.GraphModule, samples: bool = True, activations: bool = False, float_layer: str = ""
) -> dict[str, list[Candidate]]:
    """By the name of the weight that reads the site's channels, of its first reader."""
    sites, _ = find_sites(gm)
    formats = {
        node: None if layer_of(gm, node).weight_name == float_layer else WeightFormat.of(node, FORMAT)
        for site in sites
        for node in site.readers
    }
    usable = [site for site in sites if any(formats[node] is not None for node in site.readers)]
    ctx = PassContext(batches=(lambda: iter([X])) if samples else None)
    found: dict[str, list[Candidate]] = {}
    for candidate in find_candidates(gm, usable, formats, ctx, activations):
        found.setdefault(layer_of(gm, candidate.site.readers[0]).weight_name, []).append(candidate)
    return found


def test_without_samples_errors_count_relative_to_the_weight() -> None:
    gm = captured()
    found = candidates(gm, samples=False)
    assert list(found) == ["a.weight", "b.weight", "c.weight", "d.weight"]
    for name, (candidate,) in found.items():
        node = candidate.site.readers[0]
        rows = Rows.of(layer_of(gm, node), WeightFormat.of(node, FORMAT).spec)
        assert candidate.factors == [pytest.approx(1 / rows.total())], name
        assert not candidate.shares


def test_a_layer_counts_by_what_arrives_at_the_outputs() -> None:
    """A gain of 1/8 behind a layer leaves 1/64 of the power of its errors."""
    whole, part = (candidates(captured(gain)) for gain in (1.0, 0.125))

    def relative(found: dict[str, list[Candidate]]) -> float:
        return found["d.weight"][0].factors[0] / found["b.weight"][0].factors[0]

    assert relative(part) == pytest.approx(relative(whole) / 64, rel=0.02)


def test_values_of_scalable_sites_are_candidates_too() -> None:
    found = candidates(captured(), activations=True)
    assert {name: [one.shares for one in ones] for name, ones in found.items()} == {
        "a.weight": [False],  # it reads the graph's input
        "b.weight": [False, True],
        "c.weight": [False],
        "d.weight": [False, True],
    }
    unknown = candidates(captured(), samples=False, activations=True)
    assert not any(one.shares for ones in unknown.values() for one in ones)


def test_a_layer_that_stays_float_is_none() -> None:
    assert list(candidates(captured(), float_layer="b.weight")) == ["a.weight", "c.weight", "d.weight"]


def test_a_transposed_convolution_has_one_scale() -> None:
    gm = capture(nn.ConvTranspose2d(4, 6, 3), inputs((2, 4, 5, 5)))
    run_passes(gm, [Canonicalize()])
    (node,) = (node for node in gm.graph.nodes if "conv_transpose" in str(node.target))
    assert not WeightFormat.of(node, FORMAT).spec.per_channel


@pytest.mark.parametrize(("bits", "qmax"), [(8, 127), (6, 31), (4, 7)])
def test_the_grid_has_the_weights_bits(bits: int, qmax: int) -> None:
    node = next(node for node in captured().graph.nodes if node.op == "call_function")
    options = LayerOptions(quantize=True, weight_bits=bits, per_tensor=True, weight_range="mse")
    form = WeightFormat.of(node, options)
    assert (form.spec.qmin, form.spec.qmax, form.spec.per_channel, form.range) == (-qmax, qmax, False, "mse")
