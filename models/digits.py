"""The embedded default: a small residual net trained on real handwritten digits, with its data.

`train_digits.py` makes both files beside this one; nothing here needs scikit-learn. Images are 8x8, one
channel, sixteen grey steps above black, as uint8 in NHWC; the label is the digit.

Source of the images: E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine
Learning Repository (1998), CC BY 4.0, the 1797 images that scikit-learn ships as `load_digits`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from .blocks import conv_bn
from .checkpoints import load_checkpoint

WEIGHTS = Path(__file__).parent / "digits.safetensors"
DATA = Path(__file__).parent / "digits_data.safetensors"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """From stored integers to the net's input: `(image * scale - mean) / std`, then `layout` to NCHW."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: str


@dataclass(frozen=True, slots=True)
class DigitsData:
    """256 calibration images (drawn from the training images) and 500 test images that training never saw.

    Images are uint8 (count, 8, 8, 1) with values 0 to 16; labels are int64 (count,).
    """

    calib_images: npt.NDArray[np.uint8]
    calib_labels: npt.NDArray[np.int64]
    test_images: npt.NDArray[np.uint8]
    test_labels: npt.NDArray[np.int64]


PREPROCESSING = Preprocessing(scale=1 / 16, mean=(0.0,), std=(1.0,), layout="NHWC")


class DigitsNet(nn.Module):
    """Stem and three residual stages, 16, 32 and 64 wide: (batch, 1, 8, 8) to logits (batch, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(1, 16)
        self.stages = nn.Sequential(
            ResidualStage(16, 16, stride=1), ResidualStage(16, 32, stride=2), ResidualStage(32, 64, stride=2)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stages(self.stem(x)))
        return self.classifier(torch.flatten(x, 1))


class ResidualStage(nn.Module):
    """Two 3x3 convs added to the input, which goes through a 1x1 conv where its shape has to change."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.first = conv_bn(in_channels, out_channels, stride=stride)
        self.second = conv_bn(out_channels, out_channels, activation=None)
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = (
            conv_bn(in_channels, out_channels, 1, stride=stride, activation=None) if changes else nn.Identity()
        )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.second(self.first(x)) + self.shortcut(x))


def digits() -> DigitsNet:
    """The trained net in eval mode, batch norms unfolded."""
    return load_checkpoint(DigitsNet(), WEIGHTS).eval()


def digits_data() -> DigitsData:
    """The calibration and test images with their labels."""
    return DigitsData(**load_file(DATA))


def preprocess(images: npt.NDArray[np.uint8]) -> Tensor:
    """The net's input of stored images: uint8 (count, 8, 8, 1) to float32 (count, 1, 8, 8)."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() * PREPROCESSING.scale
    mean = torch.tensor(PREPROCESSING.mean)[:, None, None]
    std = torch.tensor(PREPROCESSING.std)[:, None, None]
    return (pixels - mean) / std
