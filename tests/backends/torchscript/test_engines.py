"""The targets that are engines of torch: what their tables say."""

import pytest
import torch
from fxedge.backends import registry
from fxedge.backends.torchscript import arithmetic, roads
from fxedge.backends.torchscript.backend import TorchScriptBackend
from fxedge.compiler.quant.arithmetic import Kernel
from fxedge.compiler.quant.qparams import QSpec

aten = torch.ops.aten

KERNELS = {
    "fbgemm": (arithmetic.fbgemm_conv, arithmetic.fbgemm_conv_transpose, arithmetic.fbgemm_linear),
    "x86": (arithmetic.onednn_conv, arithmetic.x86_conv_transpose, arithmetic.fbgemm_linear),
    "onednn": (arithmetic.onednn_conv, arithmetic.onednn_conv_transpose, arithmetic.onednn_linear),
}


def backend_of(engine: str) -> TorchScriptBackend:
    found = registry.get(engine)
    assert isinstance(found, TorchScriptBackend)
    return found


@pytest.mark.parametrize("engine", KERNELS)
def test_spec(engine: str) -> None:
    backend = backend_of(engine)
    spec = backend.spec
    assert (backend.engine, backend.artifact, backend.roads) == (
        engine,
        "model.pt",
        getattr(roads, engine.upper()),
    )
    assert (spec.name, spec.bias, spec.isa) == (engine, "float32", ("avx2", "vnni"))
    assert list(spec.saturation) == ["avx2", "vnni"]
    assert spec.activation == QSpec(0, 255, torch.uint8)
    assert spec.weight == QSpec(-127, 127, torch.int8, symmetric=True, per_channel=True)
    assert spec.quantize is arithmetic.quantize


@pytest.mark.parametrize(("engine", "kernels"), KERNELS.items())
def test_kernels_of_the_products(engine: str, kernels: tuple[Kernel, ...]) -> None:
    ops = backend_of(engine).spec.ops
    targets = (aten.conv2d.default, aten.conv_transpose2d.input, aten.linear.default)
    assert tuple(ops[target].kernel for target in targets) == kernels


def test_x86_is_fbgemm_without_vnni() -> None:
    x86, fbgemm = backend_of("x86").spec, backend_of("fbgemm").spec
    for name in ("avx2", "avx512"):
        for op in (aten.conv2d.default, aten.conv_transpose2d.input, aten.linear.default):
            assert x86.kernels[name].ops[op].kernel is fbgemm.ops[op].kernel


@pytest.mark.parametrize("engine", KERNELS)
def test_average_pools_take_narrow_vectors_on_avx2(engine: str) -> None:
    kernel = backend_of(engine).spec.kernels["avx2"].ops[aten.avg_pool2d.default].kernel
    assert kernel.keywords == {"lanes": 8}  # type: ignore[attr-defined]


@pytest.mark.parametrize("engine", KERNELS)
def test_inexact_rows_are_the_elementwise_ones(engine: str) -> None:
    inexact = {op for op, rule in backend_of(engine).spec.ops.items() if rule.tolerance}
    assert inexact == {
        aten.add.Tensor,
        aten.leaky_relu.default,
        aten.hardswish.default,
        aten.hardsigmoid.default,
        aten.sigmoid.default,
        aten.tanh.default,
    }
