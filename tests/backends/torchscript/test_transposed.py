"""Which road each transposed convolution takes, and that zero taps change nothing."""

from __future__ import annotations

import pytest
import torch
from fxedge.backends.torchscript.transposed import (
    TransposedShape,
    TransposeRoad,
    add_taps,
    fbgemm_transpose,
    onednn_transpose,
    x86_transpose,
)
from torch.nn import functional as F

WRONG = "torch's oneDNN kernel is wrong where a group's input and output channels differ"


def shape(
    channels: int, out: int, kernel: int, stride: int, padding: int = 0, output: int = 0, dilation: int = 1
) -> TransposedShape:
    attrs = {"stride": [stride], "padding": padding, "output_padding": [output], "dilation": dilation, "groups": 1}
    return TransposedShape.of((channels, out, kernel, kernel), attrs)


@pytest.mark.parametrize(
    ("conv", "fbgemm", "x86", "onednn"),
    [
        (shape(16, 16, 3, 2, 1), TransposeRoad.PLAIN, TransposeRoad.PLAIN, TransposeRoad.PLAIN),
        (shape(16, 8, 3, 2, 1), TransposeRoad.PLAIN, TransposeRoad.SHIFTED, WRONG),
        (shape(16, 8, 3, 1, 1), TransposeRoad.PLAIN, WRONG, WRONG),
        (shape(16, 8, 3, 3, dilation=2), TransposeRoad.PLAIN, TransposeRoad.SHIFTED, WRONG),
        (shape(16, 8, 3, 2, dilation=2), TransposeRoad.PLAIN, WRONG, WRONG),
        (shape(16, 16, 2, 2), TransposeRoad.SURROUNDED, TransposeRoad.SURROUNDED, TransposeRoad.PLAIN),
        (shape(16, 8, 2, 2), TransposeRoad.SURROUNDED, TransposeRoad.SHIFTED, WRONG),
        (shape(12, 8, 2, 2), TransposeRoad.PLAIN, TransposeRoad.SHIFTED, WRONG),
        (
            shape(16, 8, 2, 2, output=1),
            TransposeRoad.SURROUNDED,
            TransposeRoad.SURROUNDED,
            "oneDNN takes no output padding",
        ),
    ],
)
def test_roads(
    conv: TransposedShape, fbgemm: TransposeRoad, x86: TransposeRoad | str, onednn: TransposeRoad | str
) -> None:
    assert (fbgemm_transpose(conv), x86_transpose(conv), onednn_transpose(conv)) == (fbgemm, x86, onednn)


@pytest.mark.parametrize("road", TransposeRoad)
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_zero_taps_change_nothing(spatial: int, dilation: int, road: TransposeRoad) -> None:
    transpose = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[spatial - 1]
    x, weight = torch.randn(1, 4, *[3] * spatial).double(), torch.randn(4, 2, *[2] * spatial).double()
    _, _, padding, output = (count * dilation for count in road.value)
    later = [0] * (spatial - 1)
    window = ([padding, *later], [output, *later], 1, dilation)
    result = transpose(x, add_taps(weight, road), None, 3, *window)
    torch.testing.assert_close(result, transpose(x, weight, None, 3, dilation=dilation))
