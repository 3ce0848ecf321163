"""Light layers: which convolutions sum too few products to pay for conversions by themselves."""

from __future__ import annotations

import pytest
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.light import is_light
from support import Calls, inputs
from torch import nn
from torch.nn import functional as F


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(6, 6, 3, groups=6), True),
        (nn.Conv2d(6, 6, 5, groups=6, bias=False), True),
        (nn.Conv2d(6, 12, 3, groups=6), True),  # two for each channel
        (nn.Conv2d(6, 6, 7, groups=6), False),  # 49 products
        (nn.Conv2d(6, 6, 3, groups=3), False),
        (nn.Conv2d(6, 6, 1), False),
        (nn.Conv2d(1, 6, 3), False),  # one channel, but as much as it has
    ],
)
def test_depthwise_layers_of_small_kernels_are(layer: nn.Conv2d, expected: bool) -> None:
    shape = (2, layer.in_channels, 8, 8)
    gm = capture(Calls(lambda m, x: m.a(x), a=layer), inputs(shape))
    (node,) = [node for node in gm.graph.nodes if node.name == "conv2d"]
    assert is_light(node) is expected


def test_other_nodes_are_not() -> None:
    gm = capture(Calls(lambda m, x: F.relu(m.a(x)), a=nn.ConvTranspose2d(6, 6, 3, groups=6)), inputs((2, 6, 8, 8)))
    assert not any(is_light(node) for node in gm.graph.nodes)


def test_a_computed_weight_is_none() -> None:
    model = Calls(lambda m, x: F.conv2d(x, m.w.exp(), groups=6), w=nn.Parameter(inputs((6, 1, 3, 3))[0]))
    gm = capture(model, inputs((2, 6, 8, 8)))
    assert not any(is_light(node) for node in gm.graph.nodes)
