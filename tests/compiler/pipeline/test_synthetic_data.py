import pytest
import torch
from fxedge import Preprocess
from fxedge.compiler.ir.errors import InputError
from fxedge.compiler.pipeline.synthetic_data import synthetic_data


def test_images_go_through_the_preprocessing():
    steps = Preprocess(scale=1 / 127.5, mean=(1.0,), size=(24, 32))
    data = synthetic_data(steps, ["x"], samples=10)
    batches = [batch.inputs[0] for batch in data]
    assert [tuple(batch.shape) for batch in batches] == [(8, 3, 24, 32), (2, 3, 24, 32)]
    values = torch.cat(batches)
    assert -1 <= float(values.min()) < -0.5
    assert 0.5 < float(values.max()) <= 1
    assert (data.name, data.labels) == ("10 synthetic images", None)


def test_the_seed_decides():
    steps = Preprocess(size=(16, 16))
    first, again, other = (synthetic_data(steps, ["x"], 2, seed).fingerprint() for seed in (0, 0, 1))
    assert first == again != other


def test_gray():
    (batch,) = synthetic_data(Preprocess(size=(16, 16), color="gray"), ["x"], 2)
    assert batch.inputs[0].shape == (2, 1, 16, 16)


def test_what_it_needs():
    with pytest.raises(InputError) as caught:
        synthetic_data(Preprocess(), ["x"])
    assert str(caught.value) == (
        "Without calibration data the size of the images is not known: declare it with --size 224x224."
    )
    with pytest.raises(InputError) as caught:
        synthetic_data(Preprocess(size=(8, 8)), ["x", "y"])
    assert str(caught.value) == (
        "Synthetic samples are images for a model of one input, and this one takes 2 (x, y): give calibration "
        "data."
    )
