"""What is done to raw data before the model sees it: declared once, kept in the config and the manifest.

`Preprocess.apply` computes, in float32, rounding after each step, in this order:

    x = float32(raw); x = x * float32(scale); x = x - float32(mean); x = x / float32(std)

then gives NCHW. Whoever runs the deployed model must repeat these steps to get the same numbers
(`x * (1/255)` and `x / 255` differ in the last bit). A step that is not declared (`scale` 1, no `mean`, no
`std`) is left out, which changes no value. Integer data with layout "none" and no step declared (token ids)
passes unchanged.

Images from a folder are decoded by Pillow to uint8 NHWC, EXIF orientation not applied, alpha dropped.
`color` "gray" uses Pillow's "L" (ITU-R 601-2 luma). `size` (H, W) is `PIL.ImageOps.fit` with bilinear,
antialiased filtering: the largest centred part with the wanted aspect ratio, resized; an image of that size
stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator
from torch import Tensor

from ..ir.errors import InputError

Layout = Literal["NHWC", "NCHW", "none"]
DataType = Literal["bool", "uint8", "int8", "uint16", "int16", "int32", "int64", "float16", "float32", "float64"]
_CHANNEL_AXIS = {"NHWC": 3, "NCHW": 1}


class Preprocess(BaseModel):
    """The steps from raw data to model input; the default changes nothing but the float type (to float32).

    `mean` and `std` have one value for each channel, or one for all, or none; with layout "none" one or none.
    `scale` multiplies raw values and may be written as a fraction, "1/255". `layout` and `dtype` describe the
    raw data (of a folder of images they are known: NHWC, uint8); `dtype` None accepts what the data holds.
    `size` is (H, W), `color` "rgb" or "gray": both for folders of images.

    Raises:
        InputError: a value is not allowed, or `mean` and `std` differ in length.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    scale: float = 1.0
    layout: Layout = "none"
    dtype: DataType | None = None
    size: tuple[int, int] | None = None
    color: Literal["rgb", "gray"] = "rgb"

    @property
    def is_identity(self) -> bool:
        """No step changes a value or moves an axis."""
        return self.layout == "none" and self.scale == 1.0 and not self.mean and not self.std

    def apply(self, raw: np.ndarray, name: str = "input") -> Tensor:
        """Raw data in `layout`, first axis samples -> float32 NCHW (layout "none": same axes), a copy.

        Integers and booleans pass with their type if `is_identity`. `name` is what errors call the data.

        Raises:
            InputError: `raw` has another dtype or rank, another number of channels than `mean` or `std`,
                or another height and width than `size`; or layout "none" meets a mean for each channel.
        """
        self._check(raw, name)
        if self.is_identity and raw.dtype.kind in "biu":
            return torch.from_numpy(np.array(raw, dtype=raw.dtype.newbyteorder("=")))
        if self.layout == "NHWC":
            raw = raw.transpose(0, 3, 1, 2)
        x = np.array(raw, dtype=np.float32, order="C")
        if self.scale != 1.0:
            x *= np.float32(self.scale)
        if self.mean:
            x -= self._per_channel(self.mean)
        if self.std:
            x /= self._per_channel(self.std)
        return torch.from_numpy(x)

    def _per_channel(self, values: tuple[float, ...]) -> np.ndarray:
        shape = () if self.layout == "none" else (-1, 1, 1)
        return np.array(values, dtype=np.float32).reshape(shape)

    def _check(self, raw: np.ndarray, name: str) -> None:
        if self.dtype is not None and raw.dtype.name != self.dtype:
            raise InputError(
                f"{name} holds {raw.dtype.name}, but the declared dtype is {self.dtype}: "
                f"declare dtype {raw.dtype.name}, or convert the data"
            )
        if self.layout == "none":
            if max(len(self.mean), len(self.std)) > 1:
                raise InputError(
                    f'{name} is declared to have layout "none", which has no channel axis, so mean and std may '
                    f"have one value each, not {max(len(self.mean), len(self.std))}: declare NHWC or NCHW"
                )
            return
        if raw.ndim != 4:
            raise InputError(
                f"{name} has shape {raw.shape}, but layout {self.layout} needs 4 axes (N is the sample): "
                'reshape the data, or declare layout "none" to leave the axes alone'
            )
        channels = raw.shape[_CHANNEL_AXIS[self.layout]]
        for field, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (0, 1, channels):
                raise InputError(
                    f"{field} has {len(values)} values, but {name} of shape {raw.shape} has {channels} "
                    f"channel(s) in layout {self.layout}: give 1 or {channels} values, or another layout"
                )
        spatial = raw.shape[1:3] if self.layout == "NHWC" else raw.shape[2:4]
        if self.size is not None and spatial != self.size:
            raise InputError(
                f"{name} is {_size(spatial)} (H x W), but the declared size is {_size(self.size)}: "
                "only images from a folder are resized; resize the data, or drop the size"
            )

    @field_validator("scale", mode="before")
    @classmethod
    def _fraction(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        top, _, bottom = value.partition("/")
        try:
            return float(top) / (float(bottom) if "/" in value else 1.0)
        except (ValueError, ZeroDivisionError):
            raise ValueError("give a number such as 0.5 or a fraction such as 1/255") from None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if _float32(self.scale) == 0 or not math.isfinite(_float32(self.scale)):
            raise ValueError(f"scale is {self.scale}: give a number that is neither 0 nor infinite in float32")
        if any(not math.isfinite(_float32(value)) for value in (*self.mean, *self.std)):
            raise ValueError("mean and std must be finite in float32")
        if any(_float32(value) <= 0 for value in self.std):
            raise ValueError(f"std is {self.std}: every value must be above 0")
        if self.mean and self.std and len(self.mean) != len(self.std):
            raise ValueError(
                f"mean has {len(self.mean)} values and std has {len(self.std)}: "
                "give as many of one as of the other"
            )
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size is {self.size}: height and width must be at least 1")
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _one_paragraph(cls, value: Any, handler: Callable[[Any], Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as error:
            raise InputError(f"preprocessing: {'; '.join(map(_problem, error.errors()))}") from None


def _problem(error: Any) -> str:
    field = ".".join(map(str, error["loc"]))
    cause = error.get("ctx", {}).get("error")
    if not field:
        return str(cause or error["msg"])
    if error["type"] == "extra_forbidden":
        return f"{field} is not an option; allowed: {', '.join(Preprocess.model_fields)}"
    return f"{field} is {error['input']!r}: {cause or error['msg'][:1].lower() + error['msg'][1:]}"


def _float32(value: float) -> float:
    return torch.tensor(value, dtype=torch.float32).item()


def _size(spatial: tuple[int, ...]) -> str:
    return " x ".join(map(str, spatial))
