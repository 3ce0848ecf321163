"""The onednn target: what its table says."""

from __future__ import annotations

import torch
from fxedge.backends import registry
from fxedge.backends.onednn import ONEDNN, backend
from fxedge.backends.torchscript import arithmetic

aten = torch.ops.aten


def test_the_registry_knows_it() -> None:
    assert registry.get("onednn") is backend
    assert (backend.engine, backend.artifact, backend.spec) == ("onednn", "model.pt", ONEDNN)


def test_spec() -> None:
    assert (ONEDNN.name, ONEDNN.bias, ONEDNN.isa) == ("onednn", "float32", ("vnni",))
    assert (ONEDNN.activation.qmin, ONEDNN.activation.qmax, ONEDNN.activation.dtype) == (0, 255, torch.uint8)
    assert (ONEDNN.weight.qmin, ONEDNN.weight.qmax, ONEDNN.weight.per_channel) == (-127, 127, True)
    assert ONEDNN.quantize is arithmetic.quantize


def test_kernels_of_the_products() -> None:
    assert ONEDNN.ops[aten.conv2d.default].kernel is arithmetic.onednn_conv
    assert ONEDNN.ops[aten.linear.default].kernel is arithmetic.onednn_linear


def test_inexact_rows_are_the_elementwise_ones() -> None:
    inexact = {op for op, rule in ONEDNN.ops.items() if rule.tolerance}
    assert inexact == {
        aten.add.Tensor,
        aten.leaky_relu.default,
        aten.hardswish.default,
        aten.hardsigmoid.default,
        aten.sigmoid.default,
        aten.tanh.default,
    }
