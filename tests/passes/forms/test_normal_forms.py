"""Ops with arguments in one order and one form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fxedge.passes import Canonicalize
from support import Calls, Calls2, Case, check_case

IMAGE = (2, 4, 6, 6)

CASES = [
    Case(
        "pads",
        Calls(lambda m, x: F.pad(F.pad(F.pad(x, (0, 0)), (1, 2), value=0.5), (1, 1, 0, 0), mode="reflect")),
        (IMAGE,),
        2,
        """
                %0 = input x
                %1 = constant_pad_nd.default(%0, [1, 2], 0.5)
                %2 = pad.default(%1, [1, 1, 0, 0], reflect)
                return %2
            """,
    ),
    Case(
        "negative axes",
        Calls(lambda m, x: torch.softmax(x.mean([-1, -2]).unsqueeze(-1).squeeze(-1), -1).sum(-1)),
        (IMAGE,),
        5,
        """
                %0 = input x
                %1 = mean.dim(%0, [2, 3])
                %2 = unsqueeze.default(%1, 2)
                %3 = squeeze.dim(%2, 2)
                %4 = softmax.int(%3, 1)
                %5 = sum.dim_IntList(%4, [1])
                return %5
            """,
    ),
    Case(
        "averages over everything",
        Calls(
            lambda m, x: (
                F.adaptive_avg_pool2d(x, 1),
                F.adaptive_avg_pool2d(x[0], (1, 1)),
                F.adaptive_avg_pool1d(x[0], 1),
                F.adaptive_avg_pool3d(x, 1),
                F.adaptive_avg_pool2d(x, (1, 2)),
            )
        ),
        (IMAGE,),
        4,
        """
                %0 = input x
                %1 = mean.dim(%0, [2, 3], True)
                %2 = select.int(%0, 0, 0)
                %3 = mean.dim(%2, [1, 2], True)
                %4 = select.int(%0, 0, 0)
                %5 = mean.dim(%4, [2], True)
                %6 = mean.dim(%0, [1, 2, 3], True)
                %7 = adaptive_avg_pool2d.default(%0, [1, 2])
                return (%1, %3, %5, %6, %7)
            """,
    ),
    Case(
        "clamps",
        Calls(
            lambda m, x: (
                F.relu6(x),
                x.clamp(min=0),
                x.clamp_min(0.0),
                torch.clamp(x, 0, 6),
                x.clamp(-1),
                x.clamp_max(2),
            )
        ),
        (IMAGE,),
        6,
        """
                %0 = input x
                %1 = hardtanh.default(%0, 0, 6)
                %2 = relu.default(%0)
                %3 = relu.default(%0)
                %4 = hardtanh.default(%0, 0, 6)
                %5 = clamp.default(%0, -1, None)
                %6 = clamp.default(%0, None, 2)
                return (%1, %2, %3, %4, %5, %6)
            """,
    ),
    Case(
        "clamp of integers stays",
        Calls(lambda m, x: x.argmax(1).clamp(1, 2)),
        (IMAGE,),
        0,
        """
                %0 = input x
                %1 = argmax.default(%0, 1)
                %2 = clamp.default(%1, 1, 2)
                return %2
            """,
    ),
    Case(
        "softmax dtype",
        Calls(lambda m, x: F.softmax(x, -1, dtype=torch.float32) + F.log_softmax(x, 1, dtype=torch.float32)),
        (IMAGE,),
        3,
        """
                %0 = input x
                %1 = softmax.int(%0, 3)
                %2 = log_softmax.int(%0, 1)
                %3 = add.Tensor(%1, %2)
                return %3
            """,
    ),
    Case(
        "alpha",
        Calls2(lambda m, x, y: torch.sub(torch.add(x, y, alpha=2), 3, alpha=0.5)),
        (IMAGE, IMAGE),
        2,
        """
                %0 = input x
                %1 = input y
                %2 = mul.Tensor(%1, 2)
                %3 = add.Tensor(%0, %2)
                %4 = sub.Tensor(%3, 1.5)
                return %4
            """,
    ),
    Case(
        "reversed sub",
        Calls2(lambda m, x, y: 1 - torch.rsub(x, y, alpha=2)),
        (IMAGE, IMAGE),
        2,
        """
                %0 = input x
                %1 = input y
                %2 = mul.Tensor(%0, 2)
                %3 = sub.Tensor(%1, %2)
                %4 = mul.Tensor(%3, -1)
                %5 = add.Tensor(%4, 1)
                return %5
            """,
    ),
    Case(
        "constants second",
        Calls(lambda m, x: m.w * (m.w + x), w=torch.ones(6)),
        (IMAGE,),
        2,
        """
                %0 = input x
                %1 = add.Tensor(%0, @w)
                %2 = mul.Tensor(%1, @w)
                return %2
            """,
    ),
    Case(
        "conv defaults",
        Calls(lambda m, x: F.conv_transpose2d(F.conv2d(x, m.w), m.w, stride=2), w=torch.ones(4, 4, 3, 3)),
        (IMAGE,),
        2,
        """
                %0 = input x
                %1 = conv2d.default(%0, @w, None, [1, 1], [0, 0], [1, 1], 1)
                %2 = conv_transpose2d.input(%1, @w, None, [2, 2], [0, 0], [0, 0], 1, [1, 1])
                return %2
            """,
    ),
    Case(
        "conv same",
        Calls(lambda m, x: F.conv2d(x, m.w, padding="same", dilation=2), w=torch.ones(4, 4, 3, 3)),
        (IMAGE,),
        1,
        """
                %0 = input x
                %1 = conv2d.default(%0, @w, None, [1, 1], [2, 2], [2, 2], 1)
                return %1
            """,
    ),
    Case(
        "conv lopsided same",
        Calls(lambda m, x: F.conv1d(x, m.w, padding="same"), w=torch.ones(4, 4, 4)),
        ((2, 4, 9),),
        1,
        """
                %0 = input x
                %1 = constant_pad_nd.default(%0, [1, 2], 0)
                %2 = conv1d.default(%1, @w, None, [1], [0], [1], 1)
                return %2
            """,
    ),
    Case(
        "conv valid",
        Calls(lambda m, x: F.conv3d(x, m.w, padding="valid"), w=torch.ones(4, 4, 3, 3, 3)),
        ((2, 4, 5, 5, 5),),
        1,
        """
                %0 = input x
                %1 = conv3d.default(%0, @w, None, [1, 1, 1], [0, 0, 0], [1, 1, 1], 1)
                return %1
            """,
    ),
    Case(
        "pools",
        Calls(lambda m, x: F.max_pool2d(x, 2) + F.avg_pool2d(x, 2)),
        (IMAGE,),
        2,
        """
                %0 = input x
                %1 = max_pool2d.default(%0, [2, 2], [2, 2], [0, 0], [1, 1], False)
                %2 = avg_pool2d.default(%0, [2, 2], [2, 2], [0, 0], False, True, None)
                %3 = add.Tensor(%1, %2)
                return %3
            """,
    ),
    Case(
        "pool with indices",
        Calls(lambda m, x: F.max_pool2d(x, 2, return_indices=True)[0]),
        (IMAGE,),
        2,
        """
                %0 = input x
                %1 = max_pool2d.default(%0, [2, 2], [2, 2], [0, 0], [1, 1], False)
                return %1
            """,
    ),
    Case(
        "upsample",
        Calls(
            lambda m, x: (
                torch.ops.aten.upsample_nearest2d(x, [9, 9])
                + torch.ops.aten.upsample_bilinear2d(x, [9, 9], False, 1.5, 1.5)
            )
        ),
        (IMAGE,),
        2,
        """
                %0 = input x
                %1 = upsample_nearest2d.vec(%0, [9, 9], None)
                %2 = upsample_bilinear2d.vec(%0, None, False, [1.5, 1.5])
                %3 = add.Tensor(%1, %2)
                return %3
            """,
    ),
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_normal_form(case: Case) -> None:
    check_case(case, Canonicalize())
