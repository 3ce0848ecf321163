"""The networks of the accuracy table with their data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from .judged import JUDGED


@pytest.mark.parametrize(
    ("net", "calibration", "images"),
    [("mobilenet_v2_tf", 128, 500), ("cifar10_resnet20", 256, 2000), ("yolox_nano", 32, 32)],
)
def test_each_has_its_data(net: str, calibration: int, images: int, shared_data: Path) -> None:
    judged = JUDGED[net]
    assert (judged.calibration().count, judged.images(None).count) == (calibration, images)
    assert len(judged.truth(None)) == images
    assert len(judged.truth(5)) == judged.images(5).count == 5


def test_halves_of_the_detector_s_images_change_places(shared_data: Path) -> None:
    halves = [JUDGED[name] for name in ("yolox_nano", "yolox_nano_swapped")]
    judged = [next(iter(half.images(2))).inputs[0] for half in halves]
    seen = [next(iter(half.calibration())).inputs[0][:2] for half in halves]
    assert torch.equal(judged[0], seen[1])
    assert torch.equal(judged[1], seen[0])
    assert halves[0].truth(None) != halves[1].truth(None)


def test_classes_of_the_network_with_a_background(shared_data: Path) -> None:
    plain, shifted = (JUDGED[name].truth(None) for name in ("mobilenet_v2", "mobilenet_v2_tf"))
    assert shifted == [label + 1 for label in plain]


def test_detections_are_boxes_with_score_and_class(shared_data: Path) -> None:
    raw = np.full((1, 3549, 85), -10, dtype=np.float32)
    raw[0, 0, :4] = [10, 10, 1, 1]
    raw[0, 0, 4:6] = 10
    ((found,),) = JUDGED["yolox_nano"].answers(raw)
    half = 4 * np.e
    assert found == pytest.approx([80 - half, 80 - half, 80 + half, 80 + half, 1, 0], abs=1e-3)


def test_rescaling_changes_weights_and_no_output(shared_data: Path) -> None:
    plain, rescaled = JUDGED["cifar10_resnet20"].factory(), JUDGED["rescaled_resnet20"].factory()
    batch = next(iter(JUDGED["cifar10_resnet20"].images(8)))
    with torch.no_grad():
        assert torch.equal(plain(*batch.inputs), rescaled(*batch.inputs))
    ranges = rescaled.get_submodule("layer1.0.conv2").weight.abs().amax((0, 2, 3))
    assert ranges.max() / ranges.min() > 100


def test_synthetic_images_have_the_size_of_the_real_ones(shared_data: Path) -> None:
    judged = JUDGED["cifar10_resnet20"]
    made, real = (next(iter(data)).inputs[0] for data in (judged.synthetic(), judged.calibration()))
    assert made.shape[1:] == real.shape[1:]
    assert (made.mean() - real.mean()).abs() < 1
