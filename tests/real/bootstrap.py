"""Figures over images with their bootstrap intervals (Efron, *Annals of Statistics* 7 (1979); percentile form).

A `Statistic` takes the images drawn, integers [draws, images], and gives one figure for each draw, in percent. Two
statistics on the same images are compared draw by draw, so that what both find hard cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import util
from types import ModuleType
from typing import Any, Literal

import numpy as np

from .minilm import rank_correlation
from .nets import DATA

Statistic = Callable[[np.ndarray], np.ndarray]
Metric = Literal["top-1", "agreement", "mAP50-95", "Spearman"]

_PERCENTILES = (2.5, 97.5)
# Resamples of a share, and of mAP, which takes a thirtieth of a second.
_DRAWS, _DRAWS_OF_PRECISION = 2000, 200
_THRESHOLDS, _RECALLS = np.arange(0.5, 1, 0.05), np.linspace(0, 1, 101)  # of the COCO evaluation


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure over all images in percent, and its 95 % interval."""

    value: float
    low: float
    high: float

    def format(self) -> str:
        """`79.0 [75.2, 82.3]`."""
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


def share_equal(answers: Sequence[int], wanted: Sequence[int]) -> Statistic:
    """How many answers are the wanted ones."""
    hits = np.asarray(answers) == np.asarray(wanted)
    return lambda drawn: 100 * hits[drawn].mean(1)


def spread_by_chance(answers: Sequence[Sequence[int]], wanted: Sequence[int], *, seed: int = 0) -> Estimate:
    """How far apart the least and the largest share of right answers of several runtimes are, in percent, and the
    95 % interval of that if of each image it were chance which of them are right (a permutation test)."""
    hits = np.asarray(answers) == np.asarray(wanted)
    generator = np.random.default_rng(seed)
    shares = [100 * generator.permuted(hits, axis=0).mean(1) for _ in range(_DRAWS)]
    low, high = np.percentile([np.ptp(share) for share in shares], _PERCENTILES)
    return Estimate(float(np.ptp(100 * hits.mean(1))), float(low), float(high))


def mean_precision(detections: Sequence[Any], truth: Sequence[Any]) -> Statistic:
    """mAP50-95 as the script of the data folder counts it. Of each image: boxes [n, 6] as `coco_map.py` makes
    them, and ground truth [m, 5]. Boxes are matched once for each image; a draw only sorts what they gave."""
    iou = coco_map().iou
    images = [
        _matched(np.asarray(boxes, float).reshape(-1, 6), np.asarray(wanted, float).reshape(-1, 5), iou)
        for boxes, wanted in zip(detections, truth, strict=True)
    ]
    return lambda drawn: np.array([_mean_precision([images[i] for i in row]) for row in drawn.tolist()])


@dataclass(frozen=True, slots=True)
class _Matched:
    """The boxes of one class in one image: scores [n], whether each is right [thresholds, n], and how many there
    are to find."""

    scores: np.ndarray
    right: np.ndarray
    wanted: int


def _matched(boxes: np.ndarray, truth: np.ndarray, iou: Callable[..., np.ndarray]) -> dict[int, _Matched]:
    """By class; the boxes of highest score choose first, among those of the truth that are left."""
    found = {}
    for label in {*boxes[:, 5].astype(int).tolist(), *truth[:, 0].astype(int).tolist()}:
        mine, wanted = boxes[boxes[:, 5] == label], truth[truth[:, 0] == label][:, 1:]
        mine = mine[mine[:, 4].argsort()[::-1]]
        right = np.zeros((len(_THRESHOLDS), len(mine)), bool)
        if len(mine) and len(wanted):
            overlaps = iou(mine[:, :4], wanted)
            for row, threshold in zip(right, _THRESHOLDS, strict=True):
                left = overlaps.copy()
                for index, overlap in enumerate(left):
                    best = overlap.argmax()
                    if overlap[best] >= threshold:
                        row[index] = True
                        left[:, best] = -1
        found[label] = _Matched(mine[:, 4], right, len(wanted))
    return found


def _mean_precision(images: Sequence[dict[int, _Matched]]) -> float:
    """Average precision at 101 recalls, the mean over thresholds and over the classes there are to find."""
    labels = sorted({label for image in images for label, found in image.items() if found.wanted})
    precision = np.zeros((len(labels), len(_THRESHOLDS)))
    for place, label in enumerate(labels):
        found = [image[label] for image in images if label in image]
        order = np.argsort(-np.concatenate([one.scores for one in found]), kind="stable")
        if not len(order):
            continue
        right = np.concatenate([one.right for one in found], 1)[:, order].cumsum(1)
        recall = right / sum(one.wanted for one in found)
        best = np.maximum.accumulate((right / np.arange(1, len(order) + 1))[:, ::-1], 1)[:, ::-1]
        for index in range(len(_THRESHOLDS)):
            points = np.searchsorted(recall[index], _RECALLS)
            precision[place, index] = np.append(best[index], 0.0)[points].mean()
    return float(precision.mean() * 100)


def correlation(similar: Sequence[float], wanted: Sequence[float]) -> Statistic:
    """Spearman's, times 100."""
    found, right = np.asarray(similar), np.asarray(wanted)
    return lambda drawn: np.array([100 * rank_correlation(found[row], right[row]) for row in drawn])


def statistic_of(metric: Metric, answers: Sequence[Any], truth: Sequence[Any], floats: Sequence[Any]) -> Statistic:
    """The statistic of `answers`; of agreement, with what float answers."""
    match metric:
        case "mAP50-95":
            return mean_precision(answers, truth)
        case "Spearman":
            return correlation(answers, truth)
        case "agreement":
            return share_equal(answers, floats)
        case "top-1":
            return share_equal(answers, truth)


def difference(left: Statistic, right: Statistic) -> Statistic:
    return lambda drawn: left(drawn) - right(drawn)


def over_all(statistic: Statistic, images: int) -> float:
    """The figure over `images` images."""
    return float(statistic(np.arange(images)[None])[0])


def estimate(statistic: Statistic, images: int, draws: int = _DRAWS, seed: int = 0) -> Estimate:
    """The figure over `images` images, and what 95 % of `draws` seeded resamples of them lie between."""
    drawn = np.random.default_rng(seed).integers(0, images, (draws, images))
    low, high = np.percentile(statistic(drawn), _PERCENTILES)
    return Estimate(over_all(statistic, images), float(low), float(high))


def draws_for(metric: str) -> int:
    return _DRAWS_OF_PRECISION if metric.startswith("mAP") else _DRAWS


def coco_map() -> ModuleType:
    """`coco_map.py` of the data folder: post-processing and mAP."""
    spec = util.spec_from_file_location("coco_map", DATA / "yolox_nano" / "coco_map.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
