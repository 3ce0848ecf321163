"""MobileNetV2 and MobileNetV3 (small, large) with the names and shapes of torchvision's checkpoints.

Sandler et al., *MobileNetV2* (2018); Howard et al., *Searching for MobileNetV3* (2019), tables 1 and 2. Width
multiplier 1.0. Input (batch, 3, height, width), output logits (batch, classes).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .blocks import conv_bn, make_divisible

_conv_bn_v3 = partial(conv_bn, norm=partial(nn.BatchNorm2d, eps=0.001, momentum=0.01))


class InvertedResidualV2(nn.Module):
    """1x1 expansion (none at ratio 1), 3x3 depthwise, 1x1 projection; added to the input where it fits."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, ratio: int) -> None:
        super().__init__()
        hidden = in_channels * ratio
        layers: list[nn.Module] = []
        if ratio != 1:
            layers.append(conv_bn(in_channels, hidden, 1, activation=nn.ReLU6))
        layers.append(conv_bn(hidden, hidden, 3, stride=stride, groups=hidden, activation=nn.ReLU6))
        layers += [nn.Conv2d(hidden, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)]
        self.conv = nn.Sequential(*layers)
        self.adds_input = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds_input else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 1.0: seventeen inverted residuals with ReLU6."""

    # (expansion ratio, output channels, blocks, stride of the first)
    stages = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_bn(3, 32, stride=2, activation=nn.ReLU6)]
        channels = 32
        for ratio, width, depth, stride in self.stages:
            for index in range(depth):
                layers.append(InvertedResidualV2(channels, width, stride if index == 0 else 1, ratio))
                channels = width
        layers.append(conv_bn(channels, 1280, 1, activation=nn.ReLU6))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))
        _initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(torch.flatten(x, 1))


class SqueezeExcite(nn.Module):
    """Channel gate: global average pool, 1x1 conv, ReLU, 1x1 conv, hard sigmoid, times the input."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = nn.ReLU()
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc2(self.activation(self.fc1(self.avgpool(x))))
        return self.scale_activation(gate) * x


class BlockV3(NamedTuple):
    """One row of the paper's tables; `hardswish` False means ReLU."""

    in_channels: int
    kernel: int
    expanded: int
    out_channels: int
    squeeze: bool
    hardswish: bool
    stride: int


class InvertedResidualV3(nn.Module):
    """Expansion, depthwise, squeeze-excite where the row says so, linear projection; added where it fits."""

    def __init__(self, row: BlockV3) -> None:
        super().__init__()
        activation = nn.Hardswish if row.hardswish else nn.ReLU
        width = row.expanded
        layers: list[nn.Module] = []
        if width != row.in_channels:
            layers.append(_conv_bn_v3(row.in_channels, width, 1, activation=activation))
        layers.append(
            _conv_bn_v3(width, width, row.kernel, stride=row.stride, groups=width, activation=activation)
        )
        if row.squeeze:
            layers.append(SqueezeExcite(width, make_divisible(width // 4)))
        layers.append(_conv_bn_v3(width, row.out_channels, 1, activation=None))
        self.block = nn.Sequential(*layers)
        self.adds_input = row.stride == 1 and row.in_channels == row.out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.adds_input else self.block(x)


class MobileNetV3(nn.Module):
    """MobileNetV3 1.0 from its table of blocks; the last conv is six times wider than the last block."""

    def __init__(self, rows: Sequence[BlockV3], hidden: int, classes: int = 1000) -> None:
        super().__init__()
        last = rows[-1].out_channels
        self.features = nn.Sequential(
            _conv_bn_v3(3, rows[0].in_channels, stride=2, activation=nn.Hardswish),
            *(InvertedResidualV3(row) for row in rows),
            _conv_bn_v3(last, 6 * last, 1, activation=nn.Hardswish),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(6 * last, hidden), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(hidden, classes)
        )
        _initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


SMALL = (
    BlockV3(16, 3, 16, 16, True, False, 2),
    BlockV3(16, 3, 72, 24, False, False, 2),
    BlockV3(24, 3, 88, 24, False, False, 1),
    BlockV3(24, 5, 96, 40, True, True, 2),
    BlockV3(40, 5, 240, 40, True, True, 1),
    BlockV3(40, 5, 240, 40, True, True, 1),
    BlockV3(40, 5, 120, 48, True, True, 1),
    BlockV3(48, 5, 144, 48, True, True, 1),
    BlockV3(48, 5, 288, 96, True, True, 2),
    BlockV3(96, 5, 576, 96, True, True, 1),
    BlockV3(96, 5, 576, 96, True, True, 1),
)
LARGE = (
    BlockV3(16, 3, 16, 16, False, False, 1),
    BlockV3(16, 3, 64, 24, False, False, 2),
    BlockV3(24, 3, 72, 24, False, False, 1),
    BlockV3(24, 5, 72, 40, True, False, 2),
    BlockV3(40, 5, 120, 40, True, False, 1),
    BlockV3(40, 5, 120, 40, True, False, 1),
    BlockV3(40, 3, 240, 80, False, True, 2),
    BlockV3(80, 3, 200, 80, False, True, 1),
    BlockV3(80, 3, 184, 80, False, True, 1),
    BlockV3(80, 3, 184, 80, False, True, 1),
    BlockV3(80, 3, 480, 112, True, True, 1),
    BlockV3(112, 3, 672, 112, True, True, 1),
    BlockV3(112, 5, 672, 160, True, True, 2),
    BlockV3(160, 5, 960, 160, True, True, 1),
    BlockV3(160, 5, 960, 160, True, True, 1),
)


def mobilenet_v2(classes: int = 1000) -> MobileNetV2:
    """MobileNetV2 1.0, 3.5 million parameters at 1000 classes."""
    return MobileNetV2(classes)


def mobilenet_v3_small(classes: int = 1000) -> MobileNetV3:
    """MobileNetV3-Small 1.0, 2.5 million parameters at 1000 classes."""
    return MobileNetV3(SMALL, 1024, classes)


def mobilenet_v3_large(classes: int = 1000) -> MobileNetV3:
    """MobileNetV3-Large 1.0, 5.5 million parameters at 1000 classes."""
    return MobileNetV3(LARGE, 1280, classes)


def _initialize(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
