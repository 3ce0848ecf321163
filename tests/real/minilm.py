"""all-MiniLM-L6-v2, a BERT encoder of sentences (Wang et al., *MiniLM* (2020)), and the pairs that judge it.

`minilm` builds the network: token ids and their mask, int64 [batch, tokens], to embeddings of length 1, float32
[batch, 384]. The product of two is their similarity.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from fxedge.models.checkpoints import load_checkpoint
from torch import Tensor, nn
from torch.nn import functional as F

from .nets import DATA

_WIDE, _HEADS = 384, 12
Encode = Callable[[Tensor, Tensor], np.ndarray]


class _SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(_WIDE, _WIDE) for _ in range(3))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        heads = (f(x).view(batch, tokens, _HEADS, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        query, key, value = heads
        weights = torch.softmax(query @ key.transpose(2, 3) / (_WIDE // _HEADS) ** 0.5 + bias, -1)
        return (weights @ value).transpose(1, 2).reshape(batch, tokens, _WIDE)


class _Residual(nn.Module):
    """LayerNorm(x + dense(inner))."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(wide, _WIDE), nn.LayerNorm(_WIDE, eps=1e-12)

    def forward(self, inner: Tensor, x: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(inner) + x)


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": _SelfAttention(), "output": _Residual(_WIDE)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(_WIDE, 4 * _WIDE)})
        self.output = _Residual(4 * _WIDE)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.attention["output"](self.attention["self"](x, bias), x)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class _Embeddings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(30522, _WIDE)
        self.position_embeddings = nn.Embedding(512, _WIDE)
        self.token_type_embeddings = nn.Embedding(2, _WIDE)
        self.LayerNorm = nn.LayerNorm(_WIDE, eps=1e-12)

    def forward(self, ids: Tensor) -> Tensor:
        positions = self.position_embeddings(torch.arange(ids.shape[1]))
        return self.LayerNorm(self.word_embeddings(ids) + positions + self.token_type_embeddings.weight[0])


class _MiniLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = _Embeddings()
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Layer() for _ in range(6))})

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        kept = mask.float()
        bias = (1 - kept)[:, None, None, :] * -1e4
        x = self.embeddings(ids)
        for layer in self.encoder["layer"]:  # type: ignore[union-attr]
            x = layer(x, bias)
        mean = (x * kept[:, :, None]).sum(1) / kept.sum(1, keepdim=True)
        return F.normalize(mean, dim=1)


def minilm() -> nn.Module:
    return load_checkpoint(_MiniLM(), DATA / "minilm" / "weights_fp16.safetensors").eval()


def sentences(side: str, first: int, last: int | None, size: int = 16) -> list[tuple[Tensor, Tensor]]:
    """Ids and masks of one side ("a" or "b") of the STS-B pairs `first` … `last` - 1, in batches."""
    rows = torch.from_numpy(np.load(DATA / "minilm" / "stsb_dev.npz")[f"dev_{side}"][first:last].astype(np.int64))
    trimmed = [batch[:, : int((batch != 0).sum(1).max())] for batch in rows.split(size)]
    return [(batch, (batch != 0).long()) for batch in trimmed]


def embeddings(encode: Encode, pairs: int) -> np.ndarray:
    """float32 [2, pairs, 384]: both sides of the first pairs."""
    return np.stack([np.concatenate([encode(*batch) for batch in sentences(side, 0, pairs)]) for side in "ab"])


def spearman(embedded: np.ndarray) -> float:
    """Rank correlation of the pairs' similarities with what people say."""
    return rank_correlation((embedded[0] * embedded[1]).sum(1), scores()[: embedded.shape[1]])


def scores() -> np.ndarray:
    """How alike people find the sentences of each pair."""
    with np.load(DATA / "minilm" / "stsb_dev.npz") as file:
        found: np.ndarray = file["dev_score"]
    return found


def rank_correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Spearman's: Pearson's of the ranks."""
    return float(np.corrcoef(_ranks(left), _ranks(right))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share their mean."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts) - 1
    return (last - (counts - 1) / 2)[place]
