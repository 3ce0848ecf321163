"""Small nets around kinds of ops rather than shapes: pools, activations, arithmetic, views, attention.

Seeded, of any batch size, and traceable, like those of `zoo.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import conv_bn
from .seeding import floats, reference, tokens

IMAGE = (2, 3, 16, 16)


@reference("pools", floats(IMAGE))
class Pools(nn.Module):
    """Max, average (padding counted and not), adaptive and mean pooling of one feature map, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        pooled = [
            F.max_pool2d(x, 3, 2, 1),
            F.avg_pool2d(x, 2),
            F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
            F.adaptive_avg_pool2d(x, 8),
        ]
        mean = x.mean((2, 3), keepdim=True)
        return torch.cat(pooled, 1) + torch.cat([mean] * 4, 1)


@reference("activations", floats(IMAGE))
class Activations(nn.Module):
    """Convs with leaky relu, hard-swish, silu, gelu, sigmoid, tanh, hard sigmoid; softmax over channels."""

    def __init__(self) -> None:
        super().__init__()
        kinds: list[type[nn.Module]] = [
            nn.LeakyReLU,
            nn.Hardswish,
            nn.SiLU,
            nn.GELU,
            nn.Sigmoid,
            nn.Tanh,
            nn.Hardsigmoid,
        ]
        channels = [3, *([8] * len(kinds))]
        self.layers = nn.Sequential(
            *(
                conv_bn(before, after, 3, activation=kind)
                for kind, before, after in zip(kinds, channels[:-1], channels[1:], strict=True)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.layers(x), 1)


@reference("arithmetic", floats(IMAGE))
class Arithmetic(nn.Module):
    """Add, subtract, multiply and divide: by tensors, by scalars, by constants, with broadcasting."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.1, -0.2, 0.3])[:, None, None])
        self.register_buffer("std", torch.tensor([0.5, 1.0, 2.0])[:, None, None])
        self.left = conv_bn(3, 8)
        self.right = conv_bn(3, 8, activation=nn.Sigmoid)
        self.gain = nn.Parameter(torch.rand(8, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / self.std
        left, right = self.left(x), self.right(x)
        x = left * right * self.gain - right
        return left / (right + 1.0) + 0.5 * x - x.mean((2, 3), keepdim=True)


@reference("views", floats(IMAGE))
class Views(nn.Module):
    """Pads, a channel shuffle, slices, permute and flatten between convs and linears."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 8, 3, 2, groups=2)
        self.fc1 = nn.Linear(8, 6)
        self.fc2 = nn.Linear(6 * 6 * 6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(F.pad(x, (1, 1, 1, 1))))
        x = x.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)
        x = self.second(F.pad(x, (0, 1, 0, 1), value=0.5))
        x = x[:, :, 1:7, :6].permute(0, 2, 3, 1)
        return self.fc2(torch.flatten(F.relu(self.fc1(x)), 1))


@reference("matmul", floats((2, 6, 8), (2, 8, 6)))
class MatMul(nn.Module):
    """Matrix products of two computed tensors, of a tensor with itself, and with a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(8, 8)
        self.constant = nn.Parameter(torch.randn(6, 6) / 6**0.5)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        product = torch.matmul(F.relu(self.left(left)), right)
        return (product @ product.transpose(1, 2)) @ self.constant


@reference("mlp", floats((2, 12)), classes=4)
class Mlp(nn.Module):
    """Linear, 1-d batch norm, relu and dropout, twice, and log-softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(12, 16, bias=False)
        self.bn1 = nn.BatchNorm1d(16)
        self.fc2 = nn.Linear(16, 16)
        self.bn2 = nn.BatchNorm1d(16)
        self.dropout = nn.Dropout(0.5)
        self.fc3 = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(F.relu(self.bn1(self.fc1(x))))
        x = self.dropout(F.relu(self.bn2(self.fc2(x))))
        return torch.log_softmax(self.fc3(x), -1)


class Attention(nn.Module):
    """Multi-head self-attention spelled out: (batch, length, width) to the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = torch.chunk(self.qkv(x), 3, -1)
        scores = self._split(query) @ self._split(key).transpose(-2, -1) * self.scale
        mixed = torch.softmax(scores, -1) @ self._split(value)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """(batch, length, width) to (batch, heads, length, width / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


@reference("transformer", tokens(50, (2, 8)), classes=5)
class Transformer(nn.Module):
    """Encoder block: embeddings, attention and gelu feed-forward, each after layer norm and added; mean."""

    def __init__(self, width: int = 16, heads: int = 2, length: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, width)
        self.position = nn.Parameter(torch.randn(length, width) / 4)
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.fc = nn.Linear(width, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids) + self.position
        x = x + self.attention(self.norm1(x))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.fc(x.mean(1))
