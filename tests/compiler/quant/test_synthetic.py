import numpy as np
import pytest
from fxedge.compiler.quant.synthetic import synthetic_image
from numpy.random import default_rng


def images(count: int, height: int, width: int, seed: int = 1) -> np.ndarray:
    return np.stack([synthetic_image(default_rng([seed, i]), height, width) for i in range(count)])


@pytest.mark.parametrize(("height", "width"), [(20, 24), (33, 7), (1, 1)])
def test_red_green_and_blue_between_0_and_1(height, width):
    x = images(4, height, width)
    assert (x.shape, x.dtype) == ((4, 3, height, width), np.float32)
    assert 0 <= x.min() < x.max() <= 1


def test_a_seed_gives_one_image():
    first, again, other = images(1, 20, 24, 5), images(1, 20, 24, 5), images(1, 20, 24, 6)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_images_look_like_photographs():
    """Power falls with the square of the frequency, most neighbours are alike and some differ much (kurtosis of
    their differences: 3 for noise, 10 to 30 for photographs), and brightness differs from image to image."""
    x = images(24, 128, 128).mean(1)
    power = (np.abs(np.fft.rfft2(x - x.mean((1, 2), keepdims=True))) ** 2).mean(0)[0]
    slope = np.polyfit(np.log(np.arange(2, 40)), np.log(power[2:40]), 1)[0]
    assert -2.8 < slope < -1.5
    steps = np.diff(x)
    assert 10 < (steps**4).mean() / (steps**2).mean() ** 2 < 40
    assert 0.15 < x.std((1, 2)).mean() < 0.25
    assert 0.06 < x.mean((1, 2)).std() < 0.18


def test_colours_differ_less_than_brightness_and_lean_to_warm():
    x = images(24, 64, 64)
    red, green, blue = x.mean((0, 2, 3))
    assert red > green > blue
    grey = x.mean(1, keepdims=True)
    assert (x - grey).std() < 0.7 * grey.std()
