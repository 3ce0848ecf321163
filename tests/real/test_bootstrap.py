"""Bootstrap intervals on data whose spread is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .bootstrap import Estimate, coco_map, difference, estimate, mean_precision, share_equal, spread_by_chance


def _share(hits: int, total: int, draws: int = 2000) -> Estimate:
    return estimate(share_equal([1] * hits + [0] * (total - hits), [1] * total), total, draws)


@pytest.mark.parametrize(("hits", "total"), [(800, 1000), (250, 500), (30, 100)])
def test_the_interval_of_a_share_is_that_of_the_normal_approximation(hits: int, total: int) -> None:
    found, spread = _share(hits, total), 196 * np.sqrt(hits * (total - hits) / total**3)
    assert found.value == pytest.approx(100 * hits / total)
    assert (found.low, found.high) == pytest.approx((found.value - spread, found.value + spread), abs=spread / 5)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    drawn = [_share(int(rng.binomial(200, 0.8)), 200, 300) for _ in range(200)]
    assert 0.91 <= np.mean([found.low <= 80 <= found.high for found in drawn]) <= 0.98


def test_the_spread_of_runtimes_that_differ_by_chance_is_within_what_chance_makes() -> None:
    generator, wanted = np.random.default_rng(0), np.zeros(500, int)
    usual = generator.random((8, 500)) < 0.2
    usual[:, :470] = usual[0, :470]  # they differ on 30 images at most
    found = spread_by_chance(usual.astype(int), wanted)
    shares = 100 * (1 - usual.mean(1))
    assert found.value == pytest.approx(shares.max() - shares.min())
    assert found.low <= found.value <= found.high
    usual[0, 470:] = True  # this one is wrong wherever they differ
    found = spread_by_chance(usual.astype(int), wanted)
    assert found.value > found.high


def test_the_same_answers_have_no_spread() -> None:
    answers = [[0, 1, 2]] * 3
    assert spread_by_chance(answers, [0, 1, 0]) == Estimate(0.0, 0.0, 0.0)


def test_certainty_has_no_width_and_the_seed_decides() -> None:
    assert _share(10, 10) == Estimate(100, 100, 100)
    assert _share(7, 10) == _share(7, 10)


def test_what_two_find_hard_cancels() -> None:
    one = share_equal([1] * 50 + [0] * 50, [1] * 100)
    assert estimate(difference(one, one), 100) == Estimate(0, 0, 0)


def test_text() -> None:
    assert Estimate(81.25, 79.54, 82.96).format() == "81.2 [79.5, 83.0]"


def test_precision_of_perfect_and_of_no_detections(shared_data: Path) -> None:
    if not (shared_data / "yolox_nano" / "coco_map.py").is_file():
        pytest.skip("needs yolox_nano/coco_map.py, which is not here")
    truth = [[[3, 10, 10, 50, 60], [5, 0, 0, 20, 20]], [[3, 5, 5, 40, 40]]]
    boxes = [[[*box[1:], 0.9, box[0]] for box in image] for image in truth]
    assert estimate(mean_precision(boxes, truth), 2, draws=20) == Estimate(100, 100, 100)
    assert estimate(mean_precision([[], []], truth), 2, draws=20) == Estimate(0, 0, 0)
    half = estimate(mean_precision([boxes[0], []], truth), 2, draws=20)
    assert half.value == pytest.approx(100 * (1 + 51 / 101) / 2)


def test_precision_is_that_of_the_data_folder_s_script(shared_data: Path) -> None:
    """On images drawn with repeats: boxes near the truth and far off, wrong classes, ties, images without any."""
    if not (shared_data / "yolox_nano" / "coco_map.py").is_file():
        pytest.skip("needs yolox_nano/coco_map.py, which is not here")
    rng = np.random.default_rng(0)
    truth, boxes = [], []
    for image in range(12):
        corners = rng.uniform(0, 200, (image % 4, 2))
        labels = rng.integers(0, 4, image % 4)
        wanted = np.concatenate([labels[:, None], corners, corners + rng.uniform(20, 60, (image % 4, 2))], 1)
        near = wanted[rng.integers(0, len(wanted), 9)] if len(wanted) else rng.uniform(0, 200, (3, 5))
        shifted = near[:, 1:] + rng.normal(0, 4, (len(near), 4))
        scores = rng.choice([0.1, 0.5, 0.5, 0.9], len(near))
        classes = np.where(rng.random(len(near)) < 0.8, near[:, 0].round(), 7)
        boxes.append(np.concatenate([shifted, scores[:, None], classes[:, None]], 1))
        truth.append(wanted)
    drawn = rng.integers(0, 12, (40, 12))
    judge = coco_map().coco_map
    expected = [judge([boxes[i] for i in row], [truth[i] for i in row])[0] for row in drawn.tolist()]
    assert mean_precision(boxes, truth)(drawn).tolist() == pytest.approx(expected, abs=1e-9)
    assert np.std(expected) > 1
