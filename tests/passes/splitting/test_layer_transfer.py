"""What rounding one weight does to the outputs."""

from __future__ import annotations

import pytest
import torch
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.passes import PassContext
from fxedge.passes.splitting.layer_transfer import few_samples, output_noise
from support import Calls, inputs
from torch import Tensor, nn

X = inputs((12, 4))[0]


def batches_of(x: Tensor) -> PassContext:
    return PassContext(batches=lambda: iter([(x,)]))


def test_each_weight_is_replaced_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    gm = capture(model.eval(), (X[:2],))
    first, last = model[0].weight.detach() * 1.1, model[2].weight.detach() * 1.1
    found = output_noise(gm, (X,), {"0.weight": first, "2.weight": last}, batches_of(X))
    with torch.no_grad():
        wanted = model(X)
        for name, layer, value in (("0.weight", model[0], first), ("2.weight", model[2], last)):
            usual = layer.weight.data
            layer.weight.data = value
            assert found[name] == pytest.approx(float((model(X) - wanted).square().sum() / wanted.square().sum()))
            layer.weight.data = usual


def test_a_mean_over_outputs_of_any_size() -> None:
    """One output is a hundred times the other; both change by a tenth."""
    gm = capture(Calls(lambda m, x: (m.net(x), 100 * m.net(x)), net=nn.Linear(4, 3, bias=False)), (X[:2],))
    noise = output_noise(gm, (X,), {"net.weight": gm.net.weight * 1.1}, batches_of(X))
    assert noise == {"net.weight": pytest.approx(0.01, rel=1e-4)}


def test_few_samples_unless_the_batch_is_fixed() -> None:
    model = nn.Linear(4, 3)
    of_any = few_samples(capture(model, (X[:2],)), batches_of(X))
    of_twelve = few_samples(capture(model, (X,), dynamic_axes=()), batches_of(X))
    assert of_any is not None
    assert of_twelve is not None
    assert (len(of_any[0]), len(of_twelve[0])) == (8, 12)
    assert few_samples(capture(model, (X[:2],)), PassContext()) is None
