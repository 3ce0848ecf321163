"""The fbgemm target: what its table says."""

from __future__ import annotations

import torch
from fxedge.backends import registry
from fxedge.backends.fbgemm import FBGEMM, backend
from fxedge.backends.torchscript import arithmetic

aten = torch.ops.aten


def test_the_registry_knows_it() -> None:
    assert registry.get("fbgemm") is backend
    assert (backend.engine, backend.artifact, backend.spec) == ("fbgemm", "model.pt", FBGEMM)


def test_spec() -> None:
    assert (FBGEMM.name, FBGEMM.bias, FBGEMM.isa) == ("fbgemm", "float32", ("vnni",))
    assert (FBGEMM.activation.qmin, FBGEMM.activation.qmax, FBGEMM.activation.dtype) == (0, 255, torch.uint8)
    assert (FBGEMM.weight.qmin, FBGEMM.weight.qmax, FBGEMM.weight.per_channel) == (-127, 127, True)
    assert FBGEMM.quantize is arithmetic.quantize


def test_kernels_of_the_products() -> None:
    assert FBGEMM.ops[aten.conv2d.default].kernel is arithmetic.fbgemm_conv
    assert FBGEMM.ops[aten.linear.default].kernel is arithmetic.fbgemm_linear


def test_inexact_rows_are_the_elementwise_ones() -> None:
    inexact = {op for op, rule in FBGEMM.ops.items() if rule.tolerance}
    assert inexact == {
        aten.add.Tensor,
        aten.leaky_relu.default,
        aten.hardswish.default,
        aten.hardsigmoid.default,
        aten.sigmoid.default,
        aten.tanh.default,
    }
