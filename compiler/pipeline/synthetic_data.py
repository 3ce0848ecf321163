"""Calibration data for the data-free recipe: synthetic images, preprocessed like those of a folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.random import default_rng

from ..ir.errors import InputError
from ..quant.synthetic import synthetic_image
from .data import Dataset, from_arrays
from .preprocess import Preprocess

SAMPLES = 64
_BATCH = 8


def synthetic_data(
    preprocess: Preprocess, input_names: Sequence[str], samples: int = SAMPLES, seed: int = 0
) -> Dataset:
    """`samples` uint8 images of `preprocess.size`, the same at every call with the same seed.

    Raises:
        InputError: the size is not declared, or the model has several inputs.
    """
    if preprocess.size is None:
        raise InputError(
            "Without calibration data the size of the images is not known: declare it with --size 224x224."
        )
    if len(input_names) != 1:
        raise InputError(
            f"Synthetic samples are images for a model of one input, and this one takes {len(input_names)} "
            f"({', '.join(input_names)}): give calibration data."
        )
    height, width = preprocess.size
    scenes = np.stack([synthetic_image(default_rng([seed, index]), height, width) for index in range(samples)])
    images = np.rint(scenes * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    if preprocess.color == "gray":
        images = np.rint(images @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)[..., None]
    resolved = preprocess.model_copy(update={"layout": "NHWC", "dtype": "uint8"})
    data = from_arrays(np.ascontiguousarray(images), resolved, input_names, _BATCH)
    return dataclasses.replace(data, name=f"{samples} synthetic images")
