"""The real networks of the shared data folder, as factories for `fxedge compile tests/real/nets.py:NAME`.

Architectures as published, batch norms folded into convolution biases where the weights are (`mobilenet_v2`,
`mobilenet_v2_tf`, `mobilenet_v3_small`); `cifar10_resnet20` keeps its batch norms. Weights are read from the
folder that FXEDGE_SHARED_DATA names, by default `shared/data` beside the checkout. Nothing of it is part of the
project.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from fxedge.models.checkpoints import load_checkpoint
from fxedge.models.rescale import rescale_layers
from torch import Tensor, nn
from torch.nn import functional as F

DATA = Path(os.environ.get("FXEDGE_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))

_Conv = Callable[..., nn.Sequential]


def _conv(
    channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = None
) -> nn.Sequential:
    """Convolution with bias and "same" padding as PyTorch places it."""
    conv = nn.Conv2d(channels, out, kernel, stride, (kernel - 1) // 2, groups=groups)
    return nn.Sequential(conv, act()) if act else nn.Sequential(conv)


def _tf_conv(
    channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = None
) -> nn.Sequential:
    """Convolution with TensorFlow's "same" padding: on even sizes, stride 2 pads less in front."""
    layers: list[nn.Module] = []
    padding = (kernel - 1) // 2
    if stride == 2:
        front = padding - 1 if kernel > 3 else 0
        layers.append(nn.ZeroPad2d((front, padding, front, padding)))
        padding = 0
    layers.append(nn.Conv2d(channels, out, kernel, stride, padding, groups=groups))
    return nn.Sequential(*layers, *([act()] if act else []))


class _Inverted(nn.Module):
    """Sandler et al., MobileNetV2 (2018), figure 4."""

    def __init__(self, conv: _Conv, channels: int, out: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = channels * expand
        layers = [conv(channels, wide, 1, act=nn.ReLU6)] if expand > 1 else []
        depthwise = conv(wide, wide, 3, stride, wide, act=nn.ReLU6)
        self.conv = nn.Sequential(*layers, depthwise, conv(wide, out, 1, act=None))
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class _MobileNetV2(nn.Module):
    def __init__(self, conv: _Conv, classifier: nn.Module) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(3, 32, 3, 2, act=nn.ReLU6)]
        channels = 32
        table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2)]
        for expand, out, count, stride in [*table, (6, 320, 1, 1)]:
            for index in range(count):
                layers.append(_Inverted(conv, channels, out, stride if index == 0 else 1, expand))
                channels = out
        self.features = nn.Sequential(*layers, conv(channels, 1280, 1, act=nn.ReLU6))
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class _Shortcut(nn.Module):
    """He et al., *Deep Residual Learning* (2016), §4.2, option A: subsample and pad channels with zeros."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pad = channels // 4

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))


class _Basic(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut = _Shortcut(out) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class _ResNet20(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(_Basic(16, 16, 1) for _ in range(3)))
        self.layer2 = nn.Sequential(_Basic(16, 32, 2), _Basic(32, 32, 1), _Basic(32, 32, 1))
        self.layer3 = nn.Sequential(_Basic(32, 64, 2), _Basic(64, 64, 1), _Basic(64, 64, 1))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


class _SqueezeExcite(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.act = nn.ReLU()
        self.expand = nn.Conv2d(hidden, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True)))))


class _Bneck(nn.Module):
    """Howard et al., *Searching for MobileNetV3* (2019), figure 4. `hidden` None: no squeeze-excite."""

    def __init__(
        self,
        channels: int,
        kernel: int,
        wide: int,
        out: int,
        act: type[nn.Module],
        stride: int,
        hidden: int | None,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [] if wide == channels else [_tf_conv(channels, wide, 1, act=act)]
        layers.append(_tf_conv(wide, wide, kernel, stride, wide, act))
        if hidden is not None:
            layers.append(_SqueezeExcite(wide, hidden))
        self.block = nn.Sequential(*layers, _tf_conv(wide, out, 1))
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.residual else self.block(x)


class _MobileNetV3Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        relu, swish = nn.ReLU, nn.Hardswish
        rows: list[tuple[int, int, int, type[nn.Module], int, int | None]] = [
            (3, 16, 16, relu, 2, 8), (3, 72, 24, relu, 2, None), (3, 88, 24, relu, 1, None),
            (5, 96, 40, swish, 2, 24), (5, 240, 40, swish, 1, 64), (5, 240, 40, swish, 1, 64),
            (5, 120, 48, swish, 1, 32), (5, 144, 48, swish, 1, 40),
            (5, 288, 96, swish, 2, 72), (5, 576, 96, swish, 1, 144), (5, 576, 96, swish, 1, 144),
        ]  # fmt: skip
        layers: list[nn.Module] = [_tf_conv(3, 16, 3, 2, act=swish)]
        channels = 16
        for kernel, wide, out, act, stride, hidden in rows:
            layers.append(_Bneck(channels, kernel, wide, out, act, stride, hidden))
            channels = out
        self.features = nn.Sequential(*layers, _tf_conv(channels, 576, 1, act=swish))
        self.head = nn.Sequential(nn.Linear(576, 1024), nn.Hardswish(), nn.Linear(1024, 1000))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def _loaded(name: str, build: Callable[[], nn.Module]) -> nn.Module:
    return load_checkpoint(build(), DATA / name / "weights.safetensors").eval()


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 1.0: input RGB / 255, ImageNet mean and std, 224 × 224."""
    return _loaded(
        "mobilenet_v2", lambda: _MobileNetV2(_conv, nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000)))
    )


def mobilenet_v2_tf() -> nn.Module:
    """MobileNetV2 1.0, TensorFlow's weights: input RGB / 127.5 - 1, 224 × 224; 1001 classes, 0 is background."""
    return _loaded("mobilenet_v2_tf", lambda: _MobileNetV2(_tf_conv, nn.Linear(1280, 1001)))


def cifar10_resnet20() -> nn.Module:
    """ResNet-20 on CIFAR-10: input RGB / 255, ImageNet mean and std, 32 × 32."""
    return _loaded("cifar10_resnet20", _ResNet20)


def rescaled_resnet20() -> nn.Module:
    """ResNet-20 after S(1/32, 32) on what lies between the convolutions of each block: no output bit changes."""
    model = cifar10_resnet20()
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(3)]
    rescale_layers(model, [(f"{block}.bn1", f"{block}.conv2") for block in blocks], 1 / 32, 32)
    return model


def mobilenet_v3_small() -> nn.Module:
    """MobileNetV3-Small 1.0: input RGB / 127.5 - 1, 224 × 224."""
    return _loaded("mobilenet_v3_small", _MobileNetV3Small)
