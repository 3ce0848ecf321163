"""Which road each grouped convolution takes, and that the rewritten weights compute the same."""

from __future__ import annotations

import pytest
import torch
from fxedge.backends.torchscript.grouping import (
    ConvShape,
    Road,
    fbgemm_road,
    merge_groups,
    onednn_road,
    split_into_frames,
    x86_road,
)
from torch.nn import functional as F


def shape(
    channels: int,
    kernel: int,
    groups: int,
    *,
    out: int | None = None,
    stride: int = 1,
    padding: int | None = None,
    output: tuple[int, int] | None = (7, 7),
) -> ConvShape:
    pad = kernel // 2 if padding is None else padding
    weight = (out or channels, channels // groups, kernel, kernel)
    return ConvShape(weight, (stride, stride), (pad, pad), (1, 1), groups, output)


@pytest.mark.parametrize(
    ("conv", "road"),
    [
        (shape(32, 3, 1), Road()),
        (shape(32, 3, 32), Road(merge=4)),
        (shape(24, 3, 24, stride=2), Road(merge=8)),
        (shape(40, 5, 40), Road(frames=True)),
        (shape(40, 7, 40), Road(frames=True)),
        (shape(40, 7, 40, output=(2, 9)), Road(merge=20)),
        (shape(40, 5, 40, output=None), Road(merge=20)),
        (shape(40, 5, 40, padding=0), Road(frames=True, realign=True, skip=2)),
        (shape(40, 5, 40, padding=1, stride=2), Road(frames=True, realign=True, lead=1, skip=1)),
        (shape(32, 3, 32, padding=0, stride=2), Road(merge=4, realign=True, lead=1, skip=1)),
        (shape(32, 3, 32, padding=0, output=None), Road(merge=32)),
        (shape(20, 3, 20), Road(merge=20)),
        (shape(32, 3, 32, out=64), Road(merge=32)),
        (shape(24, 3, 6), Road(merge=2)),
        (shape(24, 3, 12), Road(merge=4)),
        (shape(32, 3, 8), Road()),
    ],
)
def test_fbgemm_roads(conv: ConvShape, road: Road) -> None:
    assert fbgemm_road(conv) == road
    assert onednn_road(conv) == Road()


@pytest.mark.parametrize(
    ("conv", "merge"),
    [
        (shape(96, 3, 96), 1),
        (shape(144, 3, 144), 8),
        (shape(576, 3, 576), 8),
        (shape(960, 3, 960), 16),
        (shape(408, 3, 102), 2),
        (shape(101, 3, 101), 101),
        (shape(24, 3, 6), 2),
        (shape(24, 3, 12), 4),
        (shape(32, 3, 8), 1),
    ],
)
def test_x86_merges_into_at_most_100_groups_that_fbgemm_gets_right(conv: ConvShape, merge: int) -> None:
    assert x86_road(conv) == Road(merge=merge)
    assert conv.groups // merge <= 100


@pytest.mark.parametrize(("channels", "out", "groups", "merge"), [(8, 8, 8, 4), (8, 16, 4, 2), (12, 12, 3, 3)])
def test_merged_groups_compute_the_same(channels: int, out: int, groups: int, merge: int) -> None:
    weight = torch.randint(-127, 128, (out, channels // groups, 3, 3)).double()
    x = torch.randint(0, 256, (1, channels, 5, 5)).double()
    merged = merge_groups(weight, groups, merge)
    assert torch.equal(F.conv2d(x, merged, groups=groups // merge), F.conv2d(x, weight, groups=groups))


@pytest.mark.parametrize("kernel", [5, 7])
def test_frames_compute_the_same_and_pair_no_two_weights(kernel: int) -> None:
    weight = torch.randint(1, 128, (8, 1, kernel, kernel))
    frames = split_into_frames(weight)
    x = torch.randint(0, 256, (1, 8, 9, 9)).double()
    pad = kernel // 2
    doubled = torch.stack([x, x], 2)
    result = F.conv3d(doubled, frames.double(), None, [2, 1, 1], [1, pad, pad], 1, 8).squeeze(2)
    assert torch.equal(result, F.conv2d(x, weight.double(), None, 1, pad, 1, 8))
    taps = frames.flatten(1)
    pairs = F.pad(taps, (0, taps.shape[1] % 2)).unflatten(1, (-1, 2))
    assert ((pairs != 0).sum(-1) <= 1).all()
