import re

import pytest
import torch
from fxedge.models.rescale import rescale_layers
from support import inputs
from torch import nn

X = inputs((2, 3, 9, 9))


def net(act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), act(), nn.Conv2d(8, 8, 3, groups=8), act()]
    layers += [nn.Conv2d(8, 12, 1, groups=2), act(), nn.Flatten(), nn.Linear(12 * 25, 6), act(), nn.Linear(6, 4)]
    return nn.Sequential(*layers).eval()


CHAINS = [("1", "3", "5", "8", "10")]


@pytest.mark.parametrize("act", [nn.ReLU, nn.LeakyReLU, nn.Identity])
def test_the_function_stays_bit_for_bit(act: type[nn.Module]):
    plain, rescaled = net(act), net(act)
    rescale_layers(rescaled, CHAINS, 1 / 32, 32, seed=3)
    assert not torch.equal(plain[3].weight, rescaled[3].weight)
    with torch.no_grad():
        assert torch.equal(plain(X[0]), rescaled(X[0]))


def test_channels_spread_over_the_range_and_the_seed_decides():
    once, again, other = net(), net(), net()
    for model, seed in ((once, 1), (again, 1), (other, 2)):
        rescale_layers(model, CHAINS, 1 / 4, 4, seed)
    assert torch.equal(once[1].weight, again[1].weight)
    assert not torch.equal(once[1].weight, other[1].weight)
    factors = once[1].weight / net()[1].weight
    assert set(factors.log2().tolist()) <= {-2, -1, 0, 1, 2}
    assert len(factors.unique()) > 2


@pytest.mark.parametrize(
    ("chains", "low", "high", "message"),
    [
        ([("1", "3")], 2, 1, "S(2, 1): allowed are 0 < low <= high"),
        ([("1", "3")], 0, 1, "S(0, 1): allowed are 0 < low <= high"),
        ([("1",)], 1, 2, "a chain names at least two modules"),
        ([("2", "3")], 1, 2, "2 is a ReLU; allowed: Conv1d-3d, Linear, and batch norms that have a weight"),
        ([("3", "4")], 1, 2, "4 is a ReLU; allowed to read: Conv1d-3d and Linear"),
        ([("5", "3")], 1, 2, "5 gives 12 channels, 3 reads 8"),
    ],
)
def test_what_cannot_be_rescaled(chains, low: float, high: float, message: str):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        rescale_layers(net(), chains, low, high)
