"""Building blocks that several reference models share."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

Norm = Callable[[int], nn.Module]


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    groups: int = 1,
    norm: Norm = nn.BatchNorm2d,
    activation: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """2-d conv without bias ("same" for an odd kernel), batch norm, activation; children are named 0, 1, 2.

    The names are those of torchvision's `Conv2dNormActivation`, so that checkpoints fit.
    """
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
    layers: list[nn.Module] = [conv, norm(out_channels)]
    if activation is not None:
        layers.append(activation())
    return nn.Sequential(*layers)


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Channels rounded to a multiple of `divisor`, never below it nor 10 % below the value asked for."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
