"""What rows of weights cost at the outputs: against derivatives taken one by one; what SplitRanges makes of it."""

from __future__ import annotations

import pytest
import torch
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.ops import OPS
from fxedge.compiler.ir.passes import PassContext, PassResult, evaluate, run_passes
from fxedge.passes import Canonicalize
from fxedge.passes._layers import Layer, parameters
from fxedge.passes.split_ranges import SplitRanges
from fxedge.passes.splitting.range_costs import range_costs
from torch import Tensor, fx, nn

torch.manual_seed(0)
SAMPLES = torch.randn(4, 3, 4, 4)


def layers(gm: fx.GraphModule) -> dict[fx.Node, Layer]:
    found = {node: parameters(gm, node) for node in gm.graph.nodes if node.target in OPS}
    assert all(isinstance(layer, Layer) for layer in found.values())
    return found  # type: ignore[return-value]


def jacobian(model: nn.Module, weight: Tensor, sample: Tensor) -> Tensor:
    """[outputs, elements of the weight]"""
    outputs = model(sample[None]).flatten()
    return torch.stack([torch.autograd.grad(y, weight, retain_graph=True)[0].flatten() for y in outputs])


@pytest.mark.parametrize("middle", [nn.Conv2d(4, 4, 3, groups=2), nn.ConvTranspose2d(4, 6, 2, groups=2)])
def test_costs_are_squared_derivatives_over_the_power_that_varies(middle: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU(), middle).eval()
    gm = capture(model, (SAMPLES,))
    found = [range_costs(gm, layers(gm), {"silu": 1}, [(SAMPLES,)], seed) for seed in range(300)]
    assert None not in found
    with torch.no_grad():
        outputs = model(SAMPLES)
    power = float((outputs - outputs.mean(0)).square().sum()) / 3
    for name, weight, axis in (("conv2d", model[0].weight, 0), (list(found[0].rows)[1], middle.weight, None)):
        squares = sum(jacobian(model, weight, sample).square().sum(0) for sample in SAMPLES).view_as(weight)
        if axis is None and isinstance(middle, nn.ConvTranspose2d):
            squares = squares.view(2, 2, 3, 2, 2).transpose(1, 2).flatten(0, 1)
        expected = squares.flatten(1).sum(1) / power / len(SAMPLES)
        mean = torch.stack([costs.rows[name] for costs in found]).mean(0)
        torch.testing.assert_close(mean.float(), expected, rtol=0.15, atol=0)


def test_one_sample_shows_nothing_that_varies() -> None:
    gm = capture(nn.Conv2d(3, 4, 1).eval(), (SAMPLES,))
    assert range_costs(gm, layers(gm), {}, [(SAMPLES[:1],)], 0) is None


def test_an_output_that_never_varies_has_no_cost() -> None:
    gm = capture(nn.Conv2d(3, 4, 1).eval(), (SAMPLES,))
    costs = range_costs(gm, layers(gm), {"conv2d": 1}, [(SAMPLES[:1].expand(4, -1, -1, -1),)], 0)
    assert costs is not None
    assert costs.rows["conv2d"].tolist() == costs.channels["conv2d"].tolist() == [0.0] * 4


def amplifier() -> nn.Module:
    """Rows of nearly one range; the output shows how little the small ones differ, so it shows their errors."""
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 1, 1)
    with torch.no_grad():
        first.bias.zero_()
        first.weight.fill_(1.0).add_(0.02 * torch.randn(8, 3, 1, 1))
        first.weight[:2] *= 4
        last.weight.copy_(torch.tensor([0.0, 0, 1, -1, 1, -1, 1, -1]).view(1, 8, 1, 1))
    return nn.Sequential(first, nn.SiLU(), last).eval()


def split(batches: bool) -> tuple[Tensor, PassResult]:
    gm = capture(amplifier(), (SAMPLES,))
    ctx = PassContext(example_inputs=(SAMPLES,), batches=(lambda: [(SAMPLES,)]) if batches else None)
    ours = SplitRanges(per_tensor_weights=True, multiple_of=1)
    result = run_passes(gm, [Canonicalize(), ours], ctx)["split-ranges"]
    assert result.rolled_back is None
    assert run_passes(gm, [ours], ctx)["split-ranges"].changes == 0
    return evaluate(gm, (SAMPLES,))[0], result


def test_weights_whose_errors_are_amplified_are_split() -> None:
    outputs, result = split(batches=True)
    assert result.changes == 1
    with torch.no_grad():
        torch.testing.assert_close(outputs, amplifier()(SAMPLES), rtol=1e-4, atol=1e-5)


def test_without_samples_nothing_is_known_of_outputs() -> None:
    _, result = split(batches=False)
    assert result.changes == 0
    assert "no more than 0.01" in result.skipped[0].reason
