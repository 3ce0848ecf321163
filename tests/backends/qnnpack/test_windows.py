"""The runs of an average pool, put together again, are the pool."""

from __future__ import annotations

import torch
from fxedge.backends.qnnpack.windows import PoolRuns, Run, adaptive_runs, is_plain, pool_runs
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F


def by_parts(x: Tensor, runs: PoolRuns) -> Tensor:
    height, width = runs.padding
    x = F.pad(x, [width, width, height, height])
    rows = []
    for row in runs.rows:
        parts = [_part(x[..., row.start : row.stop, run.start : run.stop], row, run) for run in runs.columns]
        rows.append(torch.cat(parts, 3))
    return torch.cat(rows, 2)


def _part(x: Tensor, row: Run, column: Run) -> Tensor:
    part = F.avg_pool2d(x, (row.length, column.length), (row.stride, column.stride))
    assert tuple(part.shape[2:]) == (row.count, column.count)
    return part


@given(st.data())
def test_pools(data: st.DataObject) -> None:
    size = data.draw(st.tuples(st.integers(3, 14), st.integers(3, 14)))
    kernel = data.draw(st.tuples(*(st.integers(1, min(length, 5)) for length in size)))
    stride = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = data.draw(st.tuples(*(st.integers(0, length // 2) for length in kernel)))
    ceil, counted = data.draw(st.booleans()), data.draw(st.booleans())
    x = torch.randn(1, 2, *size, dtype=torch.float64)
    attrs = {
        "kernel_size": list(kernel),
        "stride": list(stride),
        "padding": list(padding),
        "ceil_mode": ceil,
        "count_include_pad": counted,
    }
    expected = F.avg_pool2d(x, kernel, stride, padding, ceil, counted)
    torch.testing.assert_close(by_parts(x, pool_runs(attrs, size)), expected)


@given(st.integers(1, 15), st.integers(1, 15), st.integers(1, 9), st.integers(1, 9))
def test_adaptive_pools(height: int, width: int, rows: int, columns: int) -> None:
    x = torch.randn(1, 2, height, width, dtype=torch.float64)
    runs = adaptive_runs((rows, columns), (height, width))
    torch.testing.assert_close(by_parts(x, runs), F.adaptive_avg_pool2d(x, (rows, columns)))


def test_windows_at_equal_distances_are_one_run() -> None:
    assert adaptive_runs((3, 2), (7, 6)) == PoolRuns((Run(0, 3, 2, 3),), (Run(0, 3, 3, 2),))


def test_windows_cut_off_at_the_borders_are_runs_of_their_own() -> None:
    attrs = {"kernel_size": [3], "stride": [], "padding": [1], "ceil_mode": False, "count_include_pad": False}
    axis = (Run(0, 2), Run(2, 3, 3, 2))
    assert pool_runs(attrs, (8, 8)) == PoolRuns(axis, axis)
    assert not is_plain(attrs)
    assert is_plain(attrs | {"padding": [0]})
    assert is_plain(attrs | {"count_include_pad": True})
    assert not is_plain(attrs | {"padding": [0], "ceil_mode": True})
    assert not is_plain(attrs | {"padding": [0], "kernel_size": [1, 1]})
