"""Small nets of the awkward shapes: sharing, branches, skips, gates, several inputs and outputs.

Each is named after what it shows, runs in milliseconds from seeded weights, takes any batch size, and goes
through both `torch.export` and `torch.fx.symbolic_trace`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import conv_bn
from .mobilenet import SqueezeExcite
from .seeding import floats, reference

IMAGE = (2, 3, 16, 16)


class Head(nn.Module):
    """Global average pool and linear classifier: (batch, channels, height, width) to (batch, classes)."""

    def __init__(self, channels: int, classes: int = 10) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


@reference("conv_bn_relu", floats(IMAGE), classes=10)
class ConvBnRelu(nn.Module):
    """A plain chain: conv, batch norm, relu, twice, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv_bn(3, 8, stride=2), conv_bn(8, 16))
        self.head = Head(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


@reference("shared_weights", floats(IMAGE))
class SharedWeights(nn.Module):
    """One conv module called twice, with a batch norm of its own after each call."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.bn2 = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(self.bn1(self.conv(x)))
        return F.relu(self.bn2(self.conv(x)))


@reference("concat", floats(IMAGE), classes=10)
class Concat(nn.Module):
    """Inception-like: four branches concatenated, one of them ten times wider in range than the others."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.point = conv_bn(8, 4, 1)
        self.three = nn.Sequential(conv_bn(8, 4, 1), conv_bn(4, 6))
        self.loud = conv_bn(8, 4, 5)
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_bn(8, 4, 1))
        self.after = conv_bn(18, 8)
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        branches = [self.point(x), self.three(x), self.loud(x) * 10, self.pooled(x)]
        return self.head(self.after(torch.cat(branches, 1)))


@reference("residual", floats(IMAGE), classes=10)
class Residual(nn.Module):
    """Conv-bn-relu blocks added to their input and then relu; the second through a 1x1 shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.same = nn.Sequential(conv_bn(8, 8), conv_bn(8, 8, activation=None))
        self.down = nn.Sequential(conv_bn(8, 16, stride=2), conv_bn(16, 16, activation=None))
        self.shortcut = conv_bn(8, 16, 1, stride=2, activation=None)
        self.head = Head(16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(self.same(x) + x)
        x = F.relu(self.down(x) + self.shortcut(x))
        return self.head(x)


@reference("se_block", floats(IMAGE), classes=10)
class SqueezeExciteNet(nn.Module):
    """Squeeze-excite: a hard-sigmoid gate of shape (batch, channels, 1, 1) times the features, hard-swish."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16, activation=nn.Hardswish)
        self.gate = SqueezeExcite(16, 8)
        self.project = conv_bn(16, 8, 1, activation=None)
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.project(self.gate(self.stem(x))))


@reference("depthwise", floats(IMAGE), classes=10)
class Depthwise(nn.Module):
    """Inverted residuals with depthwise convs and relu6; channel ranges differ by up to sixty times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8, activation=nn.ReLU6)
        self.block = nn.Sequential(
            conv_bn(8, 24, 1, activation=nn.ReLU6),
            conv_bn(24, 24, groups=24, activation=nn.ReLU6),
            conv_bn(24, 8, 1, activation=None),
        )
        self.down = conv_bn(8, 8, 5, stride=2, groups=8, activation=nn.ReLU6)
        self.head = Head(8)
        with torch.no_grad():
            self.get_parameter("block.1.0.weight").mul_(torch.logspace(-1, 0.8, 24)[:, None, None, None])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.down(x + self.block(x)))


@reference("no_bias", floats(IMAGE), classes=10)
class NoBias(nn.Module):
    """Convs and a linear without bias and without batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, bias=False)
        self.conv2 = nn.Conv2d(8, 8, 3, 2, bias=False)
        self.fc = nn.Linear(8, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


@reference("grouped_dilated", floats(IMAGE))
class GroupedDilated(nn.Module):
    """A grouped, a dilated and an oblong conv with uneven stride and padding."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(3, 12, 3, padding=1, groups=3)
        self.dilated = nn.Conv2d(12, 8, 3, padding=2, dilation=2, groups=2)
        self.oblong = nn.Conv2d(8, 8, (1, 5), stride=(1, 2), padding=(0, 2))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.oblong(F.relu(self.dilated(F.relu(self.grouped(x))))))


@reference("multi_input", floats(IMAGE, (2, 3, 16, 16), (2, 6)), classes=10)
class MultiInput(nn.Module):
    """Two images, one conv each, added; a vector of features concatenated before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.left = conv_bn(3, 8)
        self.right = conv_bn(3, 8)
        self.features = nn.Linear(6, 4)
        self.fc = nn.Linear(12, 10)

    def forward(self, left: Tensor, right: Tensor, features: Tensor) -> Tensor:
        images = F.relu(self.left(left) + self.right(right)).mean((2, 3))
        return self.fc(torch.cat([images, F.relu(self.features(features))], 1))


@reference("conv_transpose", floats(IMAGE))
class ConvTranspose(nn.Module):
    """U-net-like: down twice, up by transposed convs and interpolation (nearest, bilinear), with skips."""

    def __init__(self) -> None:
        super().__init__()
        self.outer = conv_bn(3, 8)
        self.inner = conv_bn(8, 12, stride=2)
        self.bottom = conv_bn(12, 16, stride=2)
        self.up = nn.ConvTranspose2d(16, 12, 2, 2, bias=False)
        self.up_bn = nn.BatchNorm2d(12)
        self.grouped_up = nn.ConvTranspose2d(24, 8, 3, 1, 1, groups=2)
        self.out = nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        outer = self.outer(x)
        inner = self.inner(outer)
        bottom = self.bottom(inner)
        x = torch.cat([F.relu(self.up_bn(self.up(bottom))), inner], 1)
        x = F.interpolate(F.relu(self.grouped_up(x)), scale_factor=2.0, mode="nearest")
        x = self.out(torch.cat([x, outer], 1))
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


@reference("conv1d", floats((2, 4, 32)), classes=5)
class Conv1d(nn.Module):
    """Sequence classifier: strided and depthwise 1-d convs with batch norm and max pool."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 5, 2, 2)
        self.bn1 = nn.BatchNorm1d(8)
        self.depthwise = nn.Conv1d(8, 8, 3, padding=1, groups=8)
        self.bn2 = nn.BatchNorm1d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(F.relu(self.bn1(self.conv(x))), 2)
        x = F.relu(self.bn2(self.depthwise(x)))
        return self.fc(x.mean(2))


@reference("conv3d", floats((2, 2, 6, 8, 8)), classes=5)
class Conv3d(nn.Module):
    """Clip classifier: 3-d convs with batch norm over (channels, frames, height, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(2, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm3d(8)
        self.conv2 = nn.Conv3d(8, 8, 3, 2, 1)
        self.bn2 = nn.BatchNorm3d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return self.fc(x.mean((2, 3, 4)))


@reference("tuple_output", floats(IMAGE))
class TupleOutput(nn.Module):
    """Detector-like: a tuple of class scores and box offsets from one trunk, which is an output too."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = conv_bn(3, 8, stride=2)
        self.scores = nn.Conv2d(8, 6, 1)
        self.boxes = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        trunk = self.trunk(x)
        return torch.sigmoid(self.scores(trunk)), self.boxes(trunk), trunk


@reference("dict_output", floats(IMAGE))
class DictOutput(nn.Module):
    """A dict of outputs: the logits and, nested in a list, the features of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv_bn(3, 8)
        self.second = conv_bn(8, 8, stride=2)
        self.head = Head(8)

    def forward(self, x: Tensor) -> dict[str, Tensor | list[Tensor]]:
        first = self.first(x)
        second = self.second(first)
        return {"logits": self.head(second), "features": [first, second]}


@reference("split_chunk", floats(IMAGE))
class SplitChunk(nn.Module):
    """Channels split unevenly and into chunks, each part on a way of its own, then concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 12)
        self.narrow = conv_bn(4, 4)
        self.mix = conv_bn(12, 8, 1)
        self.kept = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        wide, narrow = torch.split(self.stem(x), [8, 4], 1)
        x = self.mix(torch.cat([wide, self.narrow(narrow)], 1))
        first, second = torch.chunk(x, 2, 1)
        return torch.cat([self.kept(first), second], 1)


@reference("lone_batch_norm", floats(IMAGE))
class LoneBatchNorm(nn.Module):
    """Batch norm on the input, before a padded conv, after an add, and twice behind one relu."""

    def __init__(self) -> None:
        super().__init__()
        self.input_bn = nn.BatchNorm2d(3)
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.pre_bn = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3)
        self.conv3 = nn.Conv2d(8, 8, 3)
        self.post_bn = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(self.input_bn(x)))
        x = self.conv2(self.pre_bn(x)) + self.conv3(x)
        return F.relu(self.post_bn(x))


@reference("inplace_relu", floats(IMAGE))
class InplaceRelu(nn.Module):
    """In-place relu and add: the conv's output is overwritten and then read by two consumers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.conv2(x)
        y += x
        return self.relu(y)
