"""Classes of scalar channels: channels of one class must be scaled by one factor, a fixed class by none.

Union-find over integers. A value's ids are a tensor that broadcasts to the value: size 1 on every axis along which
the class does not change, so a `[N, C, H, W]` activation has ids `[1, C, 1, 1]`. Ids of rank 0 are one class for
all of a value (a graph input, the result of an op that does not scale).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class Classes:
    """Disjoint sets of scalar channels; `reasons` says of a fixed set why it cannot be scaled."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reasons: dict[int, str] = {}

    def fresh(self, count: int) -> Tensor:
        """`count` new free classes, int64 [count]."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def fixed(self, reason: str) -> Tensor:
        """One new fixed class, int64 of rank 0."""
        ids = self.fresh(1)[0]
        self.fix(ids, reason)
        return ids

    def fix(self, ids: Tensor, reason: str) -> None:
        """Forbid scaling of these classes; the first reason stays."""
        for item in ids.unique().tolist():
            self._reasons.setdefault(self._root(item), reason)

    def is_fixed(self, ids: Tensor) -> bool:
        """Whether all of these classes are fixed."""
        return all(self._root(item) in self._reasons for item in ids.unique().tolist())

    def join(self, left: Tensor, right: Tensor) -> None:
        """Make the classes of two broadcastable id tensors equal, place by place."""
        pairs = torch.stack([side.flatten() for side in torch.broadcast_tensors(left, right)])
        for a, b in pairs.unique(dim=1).T.tolist():
            self._join(a, b)

    def join_along(self, ids: Tensor, axes: Iterable[int]) -> Tensor:
        """Join what lies along `axes`; the ids with size 1 there."""
        for axis in axes:
            first = ids.narrow(axis, 0, 1)
            if ids.shape[axis] > 1:
                self.join(ids, first)
            ids = first
        return ids

    def roots(self, ids: Tensor) -> Tensor:
        """One representative id for each class."""
        unique, place = ids.unique(return_inverse=True)
        return torch.tensor([self._root(item) for item in unique.tolist()], dtype=torch.int64)[place]

    def compact(self, ids: Tensor) -> Tensor:
        """Representatives, with size 1 on every axis along which they do not change."""
        ids = self.roots(ids)
        for axis in range(ids.ndim):
            first = ids.narrow(axis, 0, 1)
            if bool((ids == first).all()):
                ids = first
        return ids

    def reason(self, root: int) -> str | None:
        """Why the class of this id is fixed; None if it is free."""
        return self._reasons.get(self._root(root))

    def _root(self, item: int) -> int:
        parent = self._parent
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def _join(self, a: int, b: int) -> None:
        low, high = sorted((self._root(a), self._root(b)))
        if low == high:
            return
        self._parent[high] = low
        reason = self._reasons.pop(high, None)
        if reason is not None:
            self._reasons.setdefault(low, reason)
