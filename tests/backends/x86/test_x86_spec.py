"""The x86 target: what its table says."""

from __future__ import annotations

import torch
from fxedge.backends import registry
from fxedge.backends.torchscript import arithmetic
from fxedge.backends.x86 import X86, backend

aten = torch.ops.aten


def test_the_registry_knows_it() -> None:
    assert registry.get("x86") is backend
    assert (backend.engine, backend.artifact, backend.spec) == ("x86", "model.pt", X86)


def test_spec() -> None:
    assert (X86.name, X86.bias, X86.isa) == ("x86", "float32", ("vnni",))
    assert (X86.activation.qmin, X86.activation.qmax, X86.activation.dtype) == (0, 255, torch.uint8)
    assert (X86.weight.qmin, X86.weight.qmax, X86.weight.per_channel) == (-127, 127, True)
    assert X86.quantize is arithmetic.quantize


def test_kernels_of_the_products() -> None:
    assert X86.ops[aten.conv2d.default].kernel is arithmetic.onednn_conv
    assert X86.ops[aten.linear.default].kernel is arithmetic.fbgemm_linear


def test_inexact_rows_are_the_elementwise_ones() -> None:
    inexact = {op for op, rule in X86.ops.items() if rule.tolerance}
    assert inexact == {
        aten.add.Tensor,
        aten.leaky_relu.default,
        aten.hardswish.default,
        aten.hardsigmoid.default,
        aten.sigmoid.default,
        aten.tanh.default,
    }
