"""The training script's parts; a whole run takes half a minute and is not repeated here."""

import numpy as np
import pytest
import torch
from fxedge.models.digits import digits_data

pytest.importorskip("sklearn", reason="scikit-learn is needed to train (extra: train)")

from fxedge.models import train_digits


def test_the_shipped_data_are_the_last_images_and_training_images():
    from sklearn.datasets import load_digits

    every = load_digits()
    data = digits_data()
    assert np.array_equal(data.test_images[..., 0], every.images[-500:].astype(np.uint8))
    assert np.array_equal(data.test_labels, every.target[-500:])
    training = {image.astype(np.uint8).tobytes() for image in every.images[:-500]}
    assert training.issuperset(image.tobytes() for image in data.calib_images)


def test_augment_moves_the_image_and_keeps_its_form():
    torch.manual_seed(0)
    images = torch.rand(4, 1, 8, 8)
    moved = train_digits.augment(images)
    assert moved.shape == images.shape
    assert not torch.allclose(moved, images, atol=0.01)
    assert 0 <= moved.min() <= moved.max() <= 1


def test_training_learns(monkeypatch):
    monkeypatch.setattr(train_digits, "EPOCHS", 16)
    data = digits_data()
    images, labels = train_digits.preprocess(data.calib_images[:128]), torch.from_numpy(data.calib_labels[:128])
    torch.manual_seed(0)
    model = train_digits.train(images, labels)
    with torch.inference_mode():
        assert (model(images).argmax(1) == labels).float().mean() > 0.7


def test_training_repeats_from_its_seed(monkeypatch):
    monkeypatch.setattr(train_digits, "EPOCHS", 2)
    data = digits_data()
    images, labels = train_digits.preprocess(data.calib_images[:64]), torch.from_numpy(data.calib_labels[:64])
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        states.append(train_digits.train(images, labels).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
