"""The choices of `fxedge compile` as one value: from flags, from a TOML file, or both (flags win).

    model = "net.py:make"                 # or a .pt2 file, or the name of a reference model
    calib = "images/"
    target = ["onnx", "x86"]              # or "onnx,x86", or "all"
    calibration = "percentile:99.99"

    [preprocess]
    mean = [0.485, 0.456, 0.406]
    scale = "1/255"

    [layers."features.18.*"]              # globs over module paths and node names; a later one wins
    quantize = false                      # or weight_bits = 4, per_tensor = true, weight_range = "mse"

Every key is a flag's name with `_` for `-`. Paths in the file are relative to the file.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ..ir.errors import InputError
from ..pipeline.options import CompileOptions
from ..pipeline.preprocess import Preprocess
from ..quant.collectors import CollectorMethod
from ..quant.isa import SAFE
from ..quant.layer_options import LayerOptions
from ..quant.weight_range import WeightRange
from .flags import comma_list

_PATHS = ("model", "weights", "calib", "eval", "output")


class LayerConfig(BaseModel):
    """What differs for the layers that a glob names, as `LayerOptions`; `quantize = false` keeps them float."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quantize: bool | None = None
    weight_bits: int | None = Field(None, ge=2, le=8)
    per_tensor: bool | None = None
    weight_range: WeightRange | None = None

    def options(self) -> LayerOptions:
        return LayerOptions(**self.model_dump())


class CompileConfig(BaseModel):
    """One compilation. `target` "all" stands for every target installed; `parity_samples` None for all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = "digits"
    weights: Path | None = None
    calib: str | None = None
    eval: str | None = None
    target: tuple[str, ...] = ("all",)
    output: Path | None = None
    calibration: str | None = None
    recipe: str = "default"
    per_tensor: bool = False
    weight_bits: int = Field(8, ge=2, le=8)
    weight_range: WeightRange = "minmax"
    split_ratio: float | None = Field(None, ge=0, le=1)
    float_budget: float | None = Field(None, ge=0, le=1)
    isa: str = SAFE
    tracer: Literal["export", "symbolic"] = "export"
    dynamic_axes: tuple[int, ...] = (0,)
    batch_size: int = Field(32, ge=1)
    limit: int | None = Field(None, ge=1)
    eval_limit: int | None = Field(None, ge=1)
    keep_float: tuple[str, ...] = ()
    float_artifact: bool = Field(True, alias="float")
    threads: int = Field(1, ge=1)
    parity_samples: int | None = Field(64, ge=1)
    timed_runs: int = Field(20, ge=0)
    max_drop: float | None = Field(None, ge=0, allow_inf_nan=False)
    explain: bool = False
    force: bool = False
    quiet: bool = False
    as_json: bool = Field(False, alias="json")
    preprocess: Preprocess | None = None
    layers: dict[str, LayerConfig] = {}

    @field_validator("target", "keep_float", "dynamic_axes", mode="before")
    @classmethod
    def _comma_list(cls, value: object) -> object:
        return comma_list(value) if isinstance(value, str) else value

    @field_validator("parity_samples", mode="before")
    @classmethod
    def _all_samples(cls, value: object) -> object:
        return None if value == "all" else value

    def options(self) -> CompileOptions:
        """The library's options.

        Raises:
            InputError: there is no such calibration method.
        """
        return CompileOptions(
            calibration=CollectorMethod.parse(self.calibration) if self.calibration else None,
            recipe=self.recipe,
            keep_float=self.keep_float,
            per_tensor_weights=self.per_tensor,
            weight_bits=self.weight_bits,
            weight_range=self.weight_range,
            split_ratio=self.split_ratio,
            float_budget=self.float_budget,
            isa=self.isa,
            layers={glob: layer.options() for glob, layer in self.layers.items()},
            tracer=self.tracer,
            dynamic_axes=self.dynamic_axes,
            float_artifact=self.float_artifact,
            parity_samples=self.parity_samples,
            timed_runs=self.timed_runs,
            threads=self.threads,
            max_drop=self.max_drop,
            explain=self.explain,
        )


def make_config(flags: dict[str, Any], file: Path | None) -> CompileConfig:
    """`flags` (those that were given; `preprocess` a dict of its flags) over the values of `file`.

    Raises:
        InputError: the file cannot be read, or a key or value is not allowed; names each of them.
    """
    values = {} if file is None else read_toml(file)
    given = {key: value for key, value in flags.items() if value is not None}
    steps = {key: value for key, value in given.pop("preprocess", {}).items() if value is not None}
    if steps:
        given["preprocess"] = _table(values, "preprocess", file) | steps
    try:
        return CompileConfig.model_validate(values | given)
    except ValidationError as error:
        source = "the options" if file is None else f"the options (flags and {file})"
        raise InputError(f"{source}: {'; '.join(map(_problem, error.errors()))}.") from None


def read_toml(file: Path) -> dict[str, Any]:
    """The table in `file`, its paths made relative to the file's folder.

    Raises:
        InputError: no such file, or not TOML.
    """
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"the configuration {file} does not exist: check --config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"the configuration {file} is not valid TOML: {error}") from None
    for key in _PATHS:
        if isinstance(values.get(key), str) and _is_path(key, values[key]):
            values[key] = str(file.parent / values[key])
    return values


def _is_path(key: str, value: str) -> bool:
    """A reference model is a bare name; everything else that these keys take is a path."""
    return key != "model" or ".pt2" in value or ".py:" in value


def _table(values: dict[str, Any], key: str, file: Path | None) -> dict[str, Any]:
    table = values.get(key, {})
    if not isinstance(table, dict):
        raise InputError(f"{key} in {file} is {table!r}: write it as a table, [{key}]")
    return table


def _problem(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        model = LayerConfig if error["loc"][0] == "layers" else CompileConfig
        allowed = ", ".join(field.alias or key for key, field in model.model_fields.items())
        return f"{name} is not an option; allowed: {allowed}"
    return f"{name} is {error['input']!r}: {error['msg'][:1].lower() + error['msg'][1:]}"
