"""Float to integer as the runtime does it, where that matters most: next to halves."""

from __future__ import annotations

import warnings

import pytest
import torch
from fxedge.backends.torchscript.arithmetic import quantize
from quantized_ops import quint8


@pytest.mark.parametrize("count", [4096, 37])
@pytest.mark.parametrize("zero_point", [0, 113, 127, 255])
def test_quantize_matches_the_runtime_on_images_and_on_halves(zero_point: int, count: int) -> None:
    scales = [quint8(scale, 0).scale[0] for scale in (2 / 255, 1 / 64, 0.02)]
    pixels = torch.arange(count).remainder(256).float() / 127.5 - 1
    for scale in scales:
        halves = torch.arange(-count // 2, count // 2).float() / 2 * scale
        for x in (pixels, halves, torch.tensor([float("inf"), -float("inf"), 1e30, -1e30])):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                runtime = torch.quantize_per_tensor(
                    x, quint8(scale, 0).scale[0], zero_point, torch.quint8
                ).int_repr()
            assert torch.equal(quantize(x, quint8(scale, zero_point)), runtime.to(torch.int32))
