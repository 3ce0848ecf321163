"""Integer weights by the Hessian of a layer's output error: no training, no learning rate, no randomness.

Being off the float weights by e costs ||X e||² = e'He at an output channel, with H = X'X over rows X of integer
inputs. Round one column after the other, largest H_jj first, and let the columns still to come take up its error:
Frantar et al., *GPTQ* (2022), algorithm 1 with act-order. All groups and output channels at once; columns in
blocks, so that most work is matrix products.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_Array = NDArray[np.float64]

_BLOCK = 64
_EXACT = 0.99 * 2**24  # sums that float32 holds, less the rounding of this very figure
_EXACT_ROWS = 256  # as many products of 255 · 255 as float32 adds up exactly
_NARROW = 32
_STRIP = 256  # rows of X'X at a time, from the diagonal on: the rest is its mirror image
_DAMPING = 0.01  # added to the diagonal of H, times its mean (the paper's)


def gram(rows: Iterable[Tensor]) -> Tensor:
    """X'X of all `rows` together, each float32 [groups, rows, fan-in] of integers in [-255, 255]: exact, float64
    [groups, fan-in, fan-in]."""
    total: Tensor | None = None
    for batch in rows:
        if total is None:
            total = torch.zeros(len(batch), batch.shape[2], batch.shape[2], dtype=torch.float64)
        for part in _exact_parts(batch):
            for start in range(0, batch.shape[2], _STRIP):
                strip = slice(start, start + _STRIP)
                total[:, strip, start:] += part[:, :, strip].transpose(1, 2) @ part[:, :, start:]
    assert total is not None
    return total.triu() + total.triu(1).transpose(1, 2)


def _exact_parts(rows: Tensor) -> Iterator[Tensor]:
    """As many rows at a time as have products X'X that float32 adds up exactly, in any order: no sum of some of
    them exceeds the largest diagonal element (Cauchy-Schwarz). Narrow rows are not worth a look at that."""
    count = rows.shape[1]
    if count <= _EXACT_ROWS:
        yield rows
    elif rows.shape[2] <= _NARROW:
        yield from rows.split(_EXACT_ROWS, 1)
    elif float(torch.linalg.vecdot(rows, rows, dim=1).max()) < _EXACT:
        yield rows
    else:
        for half in rows.split((count + 1) // 2, 1):
            yield from _exact_parts(half)


def round_by_hessian(hessian: Tensor, real: Tensor, start: Tensor, low: int, high: int) -> Tensor:
    """Integers in [low, high] for the weights `real`, in units of the grid; a channel's `start` if it is no worse.

    `hessian` is [groups, fan-in, fan-in]; the others are [groups, fan-in, outputs]. All float64.
    """
    found = _feed_back(_damped(hessian), real, low, high)
    better = output_error(hessian, found - real) < output_error(hessian, start - real)
    return torch.where(better[:, None], found, start)


def output_error(hessian: Tensor, off: Tensor) -> Tensor:
    """Squared error of each output, summed over the rows: [groups, outputs]."""
    return (off * (hessian @ off)).sum(1)


def _damped(hessian: Tensor) -> Tensor:
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    strength = _DAMPING * diagonal.mean(1)
    strength = torch.where(strength > 0, strength, 1.0)[:, None, None]
    return hessian + strength * torch.eye(diagonal.shape[1], dtype=diagonal.dtype)


def _feed_back(hessian: Tensor, real: Tensor, low: int, high: int) -> Tensor:
    """Columns rounded in turn; `hessian` must be positive definite."""
    order = hessian.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    real = _permute(real, order)
    feedback = _root_of_inverse(_permute(_permute(hessian, order).transpose(1, 2), order))
    for start in range(0, real.shape[1], _BLOCK):
        here, later = slice(start, start + _BLOCK), slice(start + _BLOCK, None)
        rounded, errors = _rounded_block(real[:, here].numpy(), feedback[:, here, here].numpy(), low, high)
        real[:, here] = torch.from_numpy(rounded)
        real[:, later] -= feedback[:, here, later].transpose(1, 2) @ torch.from_numpy(errors)
    return torch.empty_like(real).scatter_(1, order[:, :, None].expand_as(real), real)


def _root_of_inverse(matrix: Tensor) -> Tensor:
    """Upper triangular U with U'U the inverse of `matrix` [groups, n, n], which is U'U's Cholesky factor."""
    # With rows and columns in reverse order a lower factor L is an upper one R, and (RR')⁻¹ = (R⁻¹)'R⁻¹.
    lower = torch.linalg.cholesky(matrix.flip(1, 2))
    return torch.linalg.solve_triangular(
        lower.flip(1, 2), torch.eye(matrix.shape[1], dtype=matrix.dtype).expand_as(matrix), upper=True
    )


def _rounded_block(real: _Array, feedback: _Array, low: int, high: int) -> tuple[_Array, _Array]:
    """Columns [groups, columns, outputs] rounded in turn, each one's error fed back to those behind it; and the
    errors. In numpy, whose calls cost a fifth of torch's: there are ten for each column, and all are short."""
    real, errors = real.copy(), np.empty_like(real)
    for j in range(real.shape[1]):
        rounded = np.minimum(np.maximum(np.rint(real[:, j]), low), high)
        error = (real[:, j] - rounded) / feedback[:, j, j, None]
        real[:, j] = rounded
        real[:, j + 1 :] -= feedback[:, j, j + 1 :, None] * error[:, None]
        errors[:, j] = error
    return real, errors


def _permute(values: Tensor, order: Tensor) -> Tensor:
    """Axis 1 in another order."""
    return values.gather(1, order[:, :, None].expand_as(values))
