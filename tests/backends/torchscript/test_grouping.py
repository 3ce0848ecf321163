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
    dilation: int = 1,
    output: tuple[int, int] | None = (7, 7),
) -> ConvShape:
    pad = kernel // 2 if padding is None else padding
    weight = (out or channels, channels // groups, kernel, kernel)
    return ConvShape(weight, (stride, stride), (pad, pad), (dilation,) * 2, groups, output)


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
        (shape(12, 3, 3), Road(merge=3)),
        (shape(20, 5, 5), Road()),
        (shape(74, 3, 74), Road()),
    ],
)
def test_fbgemm_roads(conv: ConvShape, road: Road) -> None:
    assert fbgemm_road(conv) == road
    assert onednn_road(conv) == Road()


@pytest.mark.parametrize(
    ("conv", "road"),
    [
        # fbgemm has a depthwise kernel, or a grouped one for 8 channels
        (shape(96, 3, 96), Road()),
        (shape(72, 3, 72, padding=0, stride=2), Road(realign=True, lead=1, skip=1)),
        (shape(96, 5, 96, padding=0, stride=2), Road(realign=True, skip=1)),
        (shape(144, 3, 144), Road(merge=8)),
        (shape(144, 3, 144, padding=0), Road(merge=8, realign=True, skip=1)),
        (shape(408, 3, 102), Road(merge=2)),
        (shape(24, 3, 12), Road(merge=4)),
        # none: 16 channels together, or what comes next
        (shape(96, 5, 96, padding=0, output=None), Road(merge=16)),
        (shape(96, 3, 96, dilation=2), Road(merge=16)),
        (shape(240, 5, 240), Road(merge=16)),
        (shape(120, 5, 120), Road(merge=24)),
        (shape(960, 3, 960), Road(merge=16)),
        (shape(116, 5, 116), Road(merge=4)),
        (shape(92, 5, 92), Road(merge=4)),
        # groups of 4 are what fbgemm gets wrong
        (shape(92, 3, 92), Road(merge=92)),
        (shape(116, 3, 116), Road(merge=116)),
        (shape(12, 3, 3), Road(merge=3)),
        # no multiple of 4 fits
        (shape(58, 3, 58), Road()),
        (shape(101, 3, 101), Road(merge=101)),
        # groups of several channels, and those that fbgemm gets wrong
        (shape(32, 3, 8), Road()),
        (shape(24, 3, 6), Road(merge=2)),
    ],
)
def test_x86_takes_at_most_100_groups_that_both_libraries_run_fast(conv: ConvShape, road: Road) -> None:
    assert x86_road(conv) == road
    assert conv.groups // road.merge <= 100


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
