import pytest
import torch
from fxedge.compiler.tools.bench.kernels import KERNELS, Kernel
from torch import nn

SMALLEST = {kernel.kind: kernel for kernel in sorted(KERNELS, key=lambda one: -one.work)}


@pytest.mark.parametrize("kernel", SMALLEST.values(), ids=SMALLEST)
def test_a_chain_keeps_its_shape_and_grows(kernel: Kernel):
    x = kernel.example()
    with torch.no_grad():
        outputs = [kernel.net(count).eval()(x) for count in (1, 2)]
    assert [output.shape for output in outputs] == [x.shape, x.shape]
    assert not torch.equal(*outputs)
    assert x.numel() == kernel.elements


@pytest.mark.parametrize("kernel", [one for one in KERNELS if one.unit == "macs"], ids=lambda one: one.kind)
def test_work_is_what_the_layers_multiply(kernel: Kernel):
    (layer,) = kernel.net(1)
    weights = layer.weight.numel()
    rows = kernel.elements // (
        layer.out_channels if isinstance(layer, nn.Conv2d | nn.Conv3d) else layer.out_features
    )
    assert kernel.work == weights * rows


def test_sizes_of_a_kind_differ():
    for kind in SMALLEST:
        works = [kernel.work for kernel in KERNELS if kernel.kind == kind]
        assert len(works) >= 2
        assert len(set(works)) == len(works)
