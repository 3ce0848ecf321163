"""Random nets and blocks with attention through every target: each stage equals the one before it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from differential import check_everywhere
from fxedge.backends import registry
from random_nets import RandomNet
from torch import Tensor, nn
from torch.nn import functional as F

TARGETS = {name for name in registry.names() if registry.get(name).missing() is None}

# Seed -> number of ops. Longer runs, with other seeds, are started by hand.
SEEDS = {seed: 3 + seed % 8 for seed in range(14)}

# int8 noise over the output's spread; a wrong graph gives about 1.
LARGEST_NOISE = 0.5


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_net_is_the_same_everywhere(seed: int, tmp_path: Path) -> None:
    net = RandomNet(seed, SEEDS[seed])
    noise = check_everywhere(net, [net.examples(batch) for batch in (2, 3, 5)], tmp_path)
    assert noise.keys() == TARGETS
    assert max(noise.values()) < LARGEST_NOISE, "\n".join([str(noise), *net.text])


class Decoder(nn.Module):
    """Its attention folds the batch into another axis."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(16, 4, 32, batch_first=True, norm_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x * 0.5)


class Masked(nn.Module):
    """Attention to earlier tokens only, its projections unbound from one linear."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 48)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.project(x).view(b, t, 3, 4, 4).permute(2, 0, 3, 1, 4)
        mask = torch.ones(t, t).tril().bool()
        return F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).reshape(b, t, c)


def _tokens(*shapes: tuple[int, int]) -> list[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(batch, length, 16, generator=generator),) for batch, length in shapes]


@pytest.mark.parametrize("block", [Decoder, Masked])
def test_attention_takes_any_batch(block: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    noise = check_everywhere(block(), _tokens((2, 6), (3, 6), (5, 6)), tmp_path)
    assert noise.keys() == TARGETS
    assert max(noise.values()) < 0.1


def test_an_encoder_takes_any_batch_and_length(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    noise = check_everywhere(layer, _tokens((2, 6), (3, 4), (5, 1)), tmp_path, dynamic_axes=(0, 1))
    assert noise.keys() == TARGETS
    assert max(noise.values()) < 0.1
