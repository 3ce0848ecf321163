"""Fills the registry: the small nets register themselves where they are defined, the others here."""

from __future__ import annotations

from torch import Tensor

from . import zoo, zoo_ops  # noqa: F401  registers the small nets
from .digits import digits, digits_data, preprocess
from .mobilenet import mobilenet_v2, mobilenet_v3_large, mobilenet_v3_small
from .registry import ModelEntry, register
from .resnet import resnet18, resnet34, resnet50
from .seeding import floats, seeded


def _two_digits() -> tuple[Tensor, ...]:
    return (preprocess(digits_data().calib_images[:2]),)


register(ModelEntry("digits", digits, _two_digits, "Residual net trained on real handwritten digits.", classes=10))
for _build in (resnet18, resnet34, resnet50, mobilenet_v2, mobilenet_v3_small, mobilenet_v3_large):
    register(
        ModelEntry(
            name=_build.__name__,
            factory=seeded(_build),
            example_inputs=floats((2, 3, 224, 224)),
            description=(_build.__doc__ or "").strip(),
            classes=1000,
            full_size=True,
        )
    )
