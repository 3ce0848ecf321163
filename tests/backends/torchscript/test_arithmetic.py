"""Float to integer as the runtime does it, where that matters most: next to halves."""

from __future__ import annotations

import warnings

import pytest
import torch
from fxedge.backends.torchscript import deprecated
from fxedge.backends.torchscript.arithmetic import fbgemm_conv, quantize
from fxedge.compiler.quant.arithmetic import KernelCall
from quantized_ops import qint8, quint8


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


TIES = [  # sum of products, bias, scales of input, weight and output
    (-13712, 10.466384887695312, 0.057894378900527954, 0.014528258703649044, 0.23707571625709534),
    (15293, 8.836261749267578, 0.08927278220653534, 0.014212706126272678, 0.2782279849052429),
    (3532, 3.1423747539520264, 0.06588048487901688, 0.009187478572130203, 0.06248766556382179),
    (7553, -0.1253899335861206, 0.0022669683676213026, 0.01709701679646969, 0.005312769673764706),
]


@pytest.mark.parametrize(("total", "bias", "in_scale", "weight_scale", "out_scale"), TIES)
def test_fbgemm_adds_the_bias_in_one_rounding_where_the_weight_has_one_scale(
    total: int, bias: float, in_scale: float, weight_scale: float, out_scale: float
) -> None:
    """Next to a half, where a product rounded by itself gives another integer."""
    x = torch.tensor([abs(total) // 64, abs(total) % 64]).reshape(1, 2, 1, 1)
    weight = torch.tensor([64, 1]).reshape(1, 2, 1, 1) * (1 if total > 0 else -1)
    x_qp, weight_qp, out_qp = (
        quint8(in_scale, 0),
        qint8(torch.tensor([weight_scale]), None),
        quint8(out_scale, 128),
    )
    attrs = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
    call = KernelCall(
        (x.to(torch.uint8),), (x_qp,), out_qp, (0, 255), attrs, weight.int(), weight_qp, torch.tensor([bias])
    )
    with deprecated.engine("fbgemm"), deprecated.quiet():
        packed = deprecated.pack_conv(
            "conv2d", deprecated.quantized_tensor(weight, weight_qp), call.bias, [1, 1], [0, 0], [1, 1], 1
        )
        given = deprecated.quantized_tensor(x, x_qp)
        runtime = torch.ops.quantized.conv2d(given, packed, out_qp.scale[0], 128).int_repr()
    assert int(fbgemm_conv(call)) == int(runtime)

    scale = x_qp.scale_tensor() * weight_qp.scale_tensor()
    apart = total + torch.tensor([bias]) * (1 / scale.double()).float()
    assert int((apart * (scale / out_qp.scale_tensor())).round() + 128) != int(runtime)
