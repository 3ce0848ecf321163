import numpy as np
import pytest
import torch
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.errors import InputError
from fxedge.compiler.ir.nodes import placeholders
from fxedge.compiler.ir.shapes import annotate
from fxedge.compiler.quant.synthetic import synthetic_batches, synthetic_image
from numpy.random import default_rng
from support import Calls, Calls2, inputs
from torch import nn
from toy_target import captured

CONV = nn.Conv2d(3, 2, 3)
GM = captured(CONV, *inputs((2, 3, 20, 24)))


def images(gm=GM, **options) -> torch.Tensor:
    return torch.cat([x for (x,) in synthetic_batches(gm, **options)()])


def test_images_of_the_input_form_in_the_input_range():
    low, high = (-2.0, -1.0, 0.0), (2.0, 3.0, 255.0)
    batches = synthetic_batches(GM, 10, low=low, high=high)
    assert [tuple(x.shape) for (x,) in batches()] == [(8, 3, 20, 24), (2, 3, 20, 24)]
    x = torch.cat([x for (x,) in batches()])
    assert x.dtype is torch.float32
    unit = images(samples=10)
    assert 0 <= float(unit.min()) < 0.05
    assert 0.95 < float(unit.max()) <= 1
    black, white = torch.tensor(low).view(3, 1, 1), torch.tensor(high).view(3, 1, 1)
    torch.testing.assert_close(x, unit * (white - black) + black)
    assert torch.equal(x, torch.cat([x for (x,) in batches()]))


def test_a_seed_gives_the_same_images_however_many():
    assert torch.equal(images(samples=3, seed=5), images(samples=9, seed=5)[:3])
    assert not torch.equal(images(samples=3, seed=5), images(samples=3, seed=6))


def test_grey_images():
    gm = captured(nn.Conv2d(1, 2, 3), *inputs((2, 1, 20, 24)))
    torch.testing.assert_close(images(gm, samples=2), images(samples=2).mean(1, keepdim=True))


def test_a_fixed_batch_size_is_kept():
    gm = capture(CONV, inputs((4, 3, 20, 24)), dynamic_axes=())
    annotate(gm)
    assert [len(x) for (x,) in synthetic_batches(gm, 11)()] == [4, 4]


def test_images_look_like_photographs():
    """Power falls with the square of the frequency, most neighbours are alike and some differ much (kurtosis of
    their differences: 3 for noise, 10 to 30 for photographs), and brightness differs from image to image."""
    x = np.stack([synthetic_image(default_rng([1, i]), 128, 128) for i in range(24)]).mean(1)
    power = (np.abs(np.fft.rfft2(x - x.mean((1, 2), keepdims=True))) ** 2).mean(0)[0]
    slope = np.polyfit(np.log(np.arange(2, 40)), np.log(power[2:40]), 1)[0]
    assert -2.8 < slope < -1.5
    steps = np.diff(x)
    assert 10 < (steps**4).mean() / (steps**2).mean() ** 2 < 40
    assert 0.15 < x.std((1, 2)).mean() < 0.25
    assert 0.06 < x.mean((1, 2)).std() < 0.18


@pytest.mark.parametrize(
    ("gm", "message"),
    [
        (
            captured(Calls2(lambda m, x, y: x + y), *inputs((2, 3, 8, 8), (2, 3, 8, 8))),
            "Synthetic samples are images for a model of one input, and this one takes 2 (x, y); "
            "give calibration data.",
        ),
        (
            captured(Calls(lambda m, x: x.relu()), *inputs((2, 4, 8, 8))),
            "Synthetic samples are images, float32 [any, 1 or 3, height, width] of fixed height and width, and "
            "input x is float32 [any, 4, 8, 8]; give calibration data.",
        ),
        (
            captured(Calls(lambda m, x: x + 1), torch.zeros(2, 3, 8, 8, dtype=torch.int64)),
            "Synthetic samples are images, float32 [any, 1 or 3, height, width] of fixed height and width, and "
            "input x is int64 [any, 3, 8, 8]; give calibration data.",
        ),
    ],
    ids=["two inputs", "four channels", "integers"],
)
def test_what_it_refuses(gm, message):
    with pytest.raises(InputError) as caught:
        synthetic_batches(gm)
    assert str(caught.value) == message


def test_refuses_a_graph_without_shapes():
    gm = captured(CONV, *inputs((2, 3, 20, 24)))
    placeholders(gm)[0].meta.clear()
    with pytest.raises(InputError) as caught:
        synthetic_batches(gm)
    assert str(caught.value) == "The shape of input input is not known; capture the model with fxedge.capture."
