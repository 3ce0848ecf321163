"""YOLOX-nano as published (Ge et al., *YOLOX* (2021)), batch norms folded, and the decoding of its output.

A network of `nets` in a file of its own: a detector, judged by mAP on COCO images.
"""

from __future__ import annotations

import torch
from fxedge.models.checkpoints import load_checkpoint
from torch import Tensor, nn
from torch.nn import functional as F

from .nets import DATA

SIZE = 416
_STRIDES = (8, 16, 32)


class _Conv(nn.Module):
    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, (kernel - 1) // 2, groups=groups)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class _Separable(nn.Module):
    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.dconv = _Conv(channels, channels, 3, stride, channels)
        self.pconv = _Conv(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pconv(self.dconv(x))


class _Bottleneck(nn.Module):
    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = _Conv(channels, channels, 1)
        self.conv2 = _Separable(channels, channels)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y


class _Csp(nn.Module):
    """Cross-stage partial block: two 1 × 1 roads, bottlenecks on one of them."""

    def __init__(self, channels: int, out: int, count: int, shortcut: bool = True) -> None:
        super().__init__()
        half = out // 2
        self.conv1 = _Conv(channels, half, 1)
        self.conv2 = _Conv(channels, half, 1)
        self.m = nn.Sequential(*(_Bottleneck(half, shortcut) for _ in range(count)))
        self.conv3 = _Conv(2 * half, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(torch.cat((self.m(self.conv1(x)), self.conv2(x)), 1))


class _SpatialPyramid(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1 = _Conv(channels, channels // 2, 1)
        self.m = nn.ModuleList(nn.MaxPool2d(kernel, 1, kernel // 2) for kernel in (5, 9, 13))
        self.conv2 = _Conv(channels * 2, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.conv2(torch.cat([x, *(pool(x) for pool in self.m)], 1))


class _Focus(nn.Module):
    def __init__(self, out: int) -> None:
        super().__init__()
        self.conv = _Conv(12, out, 3)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[..., top::2, left::2] for left in (0, 1) for top in (0, 1)]
        return self.conv(torch.cat(corners, 1))


class _Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = _Focus(16)
        self.dark2 = nn.Sequential(_Separable(16, 32, 2), _Csp(32, 32, 1))
        self.dark3 = nn.Sequential(_Separable(32, 64, 2), _Csp(64, 64, 3))
        self.dark4 = nn.Sequential(_Separable(64, 128, 2), _Csp(128, 128, 3))
        pyramid = _SpatialPyramid(256, 256)
        self.dark5 = nn.Sequential(_Separable(128, 256, 2), pyramid, _Csp(256, 256, 1, False))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine = self.dark3(self.dark2(self.stem(x)))
        middle = self.dark4(fine)
        return fine, middle, self.dark5(middle)


class _Pyramid(nn.Module):
    """Path aggregation: coarse features down to fine ones and back up."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = _Backbone()
        self.lateral_conv0 = _Conv(256, 128, 1)
        self.C3_p4 = _Csp(256, 128, 1, False)
        self.reduce_conv1 = _Conv(128, 64, 1)
        self.C3_p3 = _Csp(128, 64, 1, False)
        self.bu_conv2 = _Separable(64, 64, 2)
        self.C3_n3 = _Csp(128, 128, 1, False)
        self.bu_conv1 = _Separable(128, 128, 2)
        self.C3_n4 = _Csp(256, 256, 1, False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine, middle, coarse = self.backbone(x)
        coarse = self.lateral_conv0(coarse)
        middle = self.reduce_conv1(self.C3_p4(torch.cat([_double(coarse), middle], 1)))
        fine = self.C3_p3(torch.cat([_double(middle), fine], 1))
        middle = self.C3_n3(torch.cat([self.bu_conv2(fine), middle], 1))
        return fine, middle, self.C3_n4(torch.cat([self.bu_conv1(middle), coarse], 1))


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class _Head(nn.Module):
    def __init__(self, classes: int = 80, width: int = 64) -> None:
        super().__init__()

        def pairs() -> nn.ModuleList:
            return nn.ModuleList(
                nn.Sequential(_Separable(width, width), _Separable(width, width)) for _ in _STRIDES
            )

        def points(out: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(width, out, 1) for _ in _STRIDES)

        self.stems = nn.ModuleList(_Conv(channels, width, 1) for channels in (64, 128, 256))
        self.cls_convs, self.reg_convs = pairs(), pairs()
        self.cls_preds, self.reg_preds, self.obj_preds = points(classes), points(4), points(1)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        found = []
        for index, feature in enumerate(features):
            x = self.stems[index](feature)
            box = self.reg_convs[index](x)
            classes = self.cls_preds[index](self.cls_convs[index](x))
            parts = [self.reg_preds[index](box), self.obj_preds[index](box), classes]
            found.append(torch.cat(parts, 1).flatten(2))
        return torch.cat(found, 2).transpose(1, 2)


class _YoloxNano(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = _Pyramid()
        self.head = _Head()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


def yolox_nano() -> nn.Module:
    """YOLOX-nano: input RGB / 255, ImageNet mean and std, 416 × 416; output [batch, 3549, 85], raw."""
    return load_checkpoint(_YoloxNano(), DATA / "yolox_nano" / "weights.safetensors").eval()


def decode(raw: Tensor) -> tuple[Tensor, Tensor]:
    """[batch, anchors, 85] -> boxes [batch, anchors, 4] (x1, y1, x2, y2) and scores [batch, anchors, 80]."""
    grids, steps = [], []
    for stride in _STRIDES:
        side = torch.arange(SIZE // stride)
        rows, columns = torch.meshgrid(side, side, indexing="ij")
        grids.append(torch.stack((columns, rows), 2).reshape(-1, 2))
        steps.append(torch.full((len(side) ** 2, 1), float(stride)))
    grid, step = torch.cat(grids), torch.cat(steps)
    center, extent = (raw[..., :2] + grid) * step, raw[..., 2:4].exp() * step
    boxes = torch.cat((center - extent / 2, center + extent / 2), -1)
    return boxes, raw[..., 4:5].sigmoid() * raw[..., 5:].sigmoid()
