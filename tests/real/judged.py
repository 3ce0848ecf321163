"""The networks of the accuracy table: their calibration data, and answers on images that nothing is tuned on.

An answer is what is judged of one image, as JSON takes it: the class of a classifier, the boxes of a detector; of
a pair of sentences, their similarity. Preprocessing, calibration data and batch sizes as on the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fxedge import Preprocess, from_arrays, open_dataset
from fxedge.compiler.pipeline.accuracy import top1
from fxedge.compiler.pipeline.data import Dataset
from fxedge.compiler.pipeline.synthetic_data import synthetic_data
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from . import minilm, nets, yolox
from .bootstrap import Metric, coco_map
from .compiling import REAL_NETS

_BATCH = 32  # of the command line
_JUDGED_BATCH = 20
_CALIBRATION_HALF = 32  # of the detector's 64 images
_CALIBRATION_PAIRS, _PAIRS = (1400, 1416), 4  # pairs of sentences, and how many are in a batch


@dataclass(frozen=True, slots=True)
class Judged:
    """A network; `calibration` and `images(limit)` give its data, `truth(limit)` what is right for each image,
    `answers` what one batch of outputs says. `size` is that of an image."""

    factory: Callable[[], nn.Module]
    preprocess: Preprocess
    size: tuple[int, int] | None
    calibration: Callable[[], Dataset]
    images: Callable[[int | None], Dataset]
    truth: Callable[[int | None], list[Any]]
    answers: Callable[[np.ndarray], list[Any]]
    metric: Metric = "top-1"
    dynamic_axes: tuple[int, ...] = (0,)

    def synthetic(self) -> Dataset:
        """What the recipe data-free calibrates on where it is given no images."""
        assert self.size is not None
        return synthetic_data(self.preprocess.model_copy(update={"size": self.size}), ["x"])


def _classifier(
    factory: Callable[[], nn.Module], like: str, size: tuple[int, int], first_class: int = 0
) -> Judged:
    """A network on the data and with the preprocessing of the real net `like`; class 0 has index `first_class`."""
    net = REAL_NETS[like]

    def images(limit: int | None) -> Dataset:
        return open_dataset(nets.DATA / net.test, net.preprocess, ["x"], _JUDGED_BATCH, limit)

    def truth(limit: int | None) -> list[int]:
        labels = images(limit).labels
        assert labels is not None
        return [int(label) + first_class for label in labels]

    def calibration() -> Dataset:
        return open_dataset(nets.DATA / net.calibration, net.preprocess, ["x"], _BATCH)

    return Judged(factory, net.preprocess, size, calibration, images, truth, lambda logits: top1(logits).tolist())


def _detector(swapped: bool = False) -> Judged:
    """Calibrated on one half of the images and judged on the other; `swapped`: on the first half."""
    preprocess = REAL_NETS["mobilenet_v2"].preprocess.model_copy(update={"layout": "NHWC"})

    first = 0 if swapped else _CALIBRATION_HALF

    def part(first: int, count: int, batch: int) -> Dataset:
        paths = sorted((nets.DATA / "yolox_nano" / "images").glob("*.jpg"))[first : first + count]
        return from_arrays(np.stack([_pixels(path) for path in paths]), preprocess, ["x"], batch)

    def truth(limit: int | None) -> list[list[list[float]]]:
        with np.load(nets.DATA / "yolox_nano" / "ground_truth.npz") as file:
            boxes = file["gt"]
        numbers = range(first, first + _CALIBRATION_HALF)[:limit]
        return [boxes[boxes[:, 0] == number][:, 1:].tolist() for number in numbers]

    return Judged(
        yolox.yolox_nano,
        preprocess,
        (yolox.SIZE, yolox.SIZE),
        lambda: part(_CALIBRATION_HALF - first, _CALIBRATION_HALF, _BATCH),
        lambda limit: part(first, _CALIBRATION_HALF if limit is None else limit, _JUDGED_BATCH),
        truth,
        _boxes,
        "mAP50-95",
    )


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _boxes(raw: np.ndarray) -> list[list[list[float]]]:
    """What is found on each image, after non-maximum suppression."""
    boxes, scores = yolox.decode(torch.from_numpy(raw))
    post = coco_map().postproc
    return [post(box.numpy(), score.numpy()).tolist() for box, score in zip(boxes, scores, strict=True)]


def _encoder() -> Judged:
    """Batches hold the first sentences of some pairs, then the second ones. Sixteen pairs calibrate."""

    def pairs(first: int, last: int | None) -> Dataset:
        sides = [minilm.sentences(side, first, last, _PAIRS) for side in "ab"]
        batches = [tuple(map(_stacked, *both)) for both in zip(*sides, strict=True)]
        return from_arrays(batches, None, ["ids", "mask"], 2 * _PAIRS)

    return Judged(
        minilm.minilm,
        Preprocess(),
        None,
        lambda: pairs(*_CALIBRATION_PAIRS),
        lambda limit: pairs(0, limit),
        lambda limit: minilm.scores()[:limit].tolist(),
        lambda found: (found[: len(found) // 2] * found[len(found) // 2 :]).sum(1).tolist(),
        "Spearman",
        (0, 1),
    )


def _stacked(first: Tensor, second: Tensor) -> Tensor:
    """Token ids or masks [n, a] and [n, b] as one tensor, zeros behind the shorter ones."""
    wide = max(first.shape[1], second.shape[1])
    return torch.cat([F.pad(part, (0, wide - part.shape[1])) for part in (first, second)])


JUDGED = {
    "mobilenet_v2": _classifier(nets.mobilenet_v2, "mobilenet_v2", (224, 224)),
    "mobilenet_v2_tf": _classifier(nets.mobilenet_v2_tf, "mobilenet_v3_small", (224, 224), first_class=1),
    "mobilenet_v3_small": _classifier(nets.mobilenet_v3_small, "mobilenet_v3_small", (224, 224)),
    "cifar10_resnet20": _classifier(nets.cifar10_resnet20, "cifar10_resnet20", (32, 32)),
    "rescaled_resnet20": _classifier(nets.rescaled_resnet20, "cifar10_resnet20", (32, 32)),
    "yolox_nano": _detector(),
    "yolox_nano_swapped": _detector(swapped=True),
    "minilm": _encoder(),
}
