"""Figures over images with their bootstrap intervals (Efron, *Annals of Statistics* 7 (1979); percentile form).

A `Statistic` takes the images drawn, integers [draws, images], and gives one figure for each draw, in percent. Two
statistics on the same images are compared draw by draw, so that what both find hard cancels.
"""

from __future__ import annotations

import functools
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
# Resamples of a share, and of mAP, which takes a sixth of a second.
_DRAWS, _DRAWS_OF_PRECISION = 2000, 200


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


def mean_precision(detections: Sequence[Any], truth: Sequence[Any]) -> Statistic:
    """mAP50-95 as the script of the data folder counts it. Of each image: boxes [n, 6] as `coco_map.py` makes
    them, and ground truth [m, 5]."""
    judge = coco_map()
    found = [np.asarray(boxes, dtype=np.float64).reshape(-1, 6) for boxes in detections]
    wanted = [np.asarray(boxes, dtype=np.float64).reshape(-1, 5) for boxes in truth]

    @functools.cache
    def figure(drawn: tuple[int, ...]) -> float:
        return float(judge.coco_map([found[i] for i in drawn], [wanted[i] for i in drawn])[0])

    return lambda drawn: np.array([figure(tuple(row)) for row in drawn.tolist()])


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
