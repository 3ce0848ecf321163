"""MODEL and DATA of the command line -> what the pipeline takes.

MODEL is `file.py:factory` (a function that returns an `nn.Module`, an `fx.GraphModule` or an
`ExportedProgram`), a `.pt2` file, or the name of a reference model. The first two run code, and a note on stderr
says so. `digits` brings its own calibration and test images; every other model needs DATA.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn
from torch.export import ExportedProgram

from ...models import catalog  # noqa: F401  fills the registry
from ...models import digits as digits_model
from ...models import registry as zoo
from ...models.checkpoints import load_checkpoint
from ..ir.capture import input_names, load_pt2
from ..ir.errors import InputError
from ..pipeline.data import Dataset, from_arrays, open_dataset
from ..pipeline.preprocess import Preprocess
from ..pipeline.recipes import DATA_FREE
from ..pipeline.sources import is_python_spec, load_python_object
from ..pipeline.synthetic_data import synthetic_data
from .config import CompileConfig
from .exits import note

EMBEDDED = "digits"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model, what reports call it, the names of its inputs, and example inputs where it brings some."""

    name: str
    model: nn.Module | ExportedProgram
    input_names: tuple[str, ...]
    examples: tuple[Tensor, ...] | None = None


def load_model(spec: str, weights: Path | None = None, *, quiet: bool = False) -> LoadedModel:
    """The model that MODEL names, with the weights of a checkpoint where one is given.

    Raises:
        InputError, CaptureError, CheckpointError: nothing usable there; says what is allowed.
    """
    if is_python_spec(spec):
        loaded = _from_python(spec, quiet)
    elif spec.endswith(".pt2"):
        loaded = _from_pt2(Path(spec), quiet)
    else:
        loaded = _from_zoo(spec)
    if weights is not None:
        if not isinstance(loaded.model, nn.Module):
            raise InputError(f"{spec} is an exported program, which holds its weights: leave out --weights")
        load_checkpoint(loaded.model, weights)
    return loaded


def _from_python(spec: str, quiet: bool) -> LoadedModel:
    if not quiet:
        note(f"{spec} is Python code and is run.")
    model = load_python_object(spec)()
    if not isinstance(model, (nn.Module, ExportedProgram)):
        raise InputError(
            f"{spec} returned a {type(model).__name__}; allowed: an nn.Module, an fx.GraphModule, or an "
            "ExportedProgram"
        )
    return LoadedModel(spec, model, input_names(model))


def _from_pt2(path: Path, quiet: bool) -> LoadedModel:
    if not quiet:
        note(f"{path} is code: torch's loader unpickles and evaluates what it holds.")
    program = load_pt2(path)
    return LoadedModel(path.stem, program, input_names(program), _program_examples(program))


def _program_examples(program: ExportedProgram) -> tuple[Tensor, ...] | None:
    args, kwargs = program.example_inputs or ((), {})
    usable = bool(args) and not kwargs and all(isinstance(value, Tensor) for value in args)
    return tuple(args) if usable else None


def _from_zoo(name: str) -> LoadedModel:
    if Path(name).suffix in (".py", ".pt", ".pth", ".onnx", ".safetensors"):
        raise InputError(
            f"the model {name} is a file of another kind; allowed: file.py:factory (a function that returns the "
            "model; --weights loads a checkpoint into it), a .pt2 file, or the name of a reference model"
        )
    entry = zoo.get(name)
    model = entry.factory()
    return LoadedModel(name, model, input_names(model), entry.example_inputs())


def load_data(config: CompileConfig, model: LoadedModel) -> tuple[Dataset, Dataset | None]:
    """Calibration data and evaluation data (or None).

    Raises:
        InputError: no data, or nothing usable there.
    """
    embedded = config.model == EMBEDDED and config.calib is None
    if config.calib is None and config.recipe == DATA_FREE:
        made = synthetic_data(_preprocess(config), model.input_names)
        return made, _open(config, model, config.eval, config.eval_limit)
    if config.calib is None and not embedded:
        raise InputError(
            f"no calibration data for {config.model}: give --calib with a folder of images, a .npy, .npz or "
            ".safetensors file, or file.py:loader; without any, --recipe data-free makes images of its own"
        )
    evaluation = _open(config, model, config.eval, config.eval_limit)
    if not embedded:
        return _open(config, model, config.calib, config.limit), evaluation  # type: ignore[return-value]
    data = digits_model.digits_data()
    calibration = _digits(config, "digits, calibration images", data.calib_images, data.calib_labels, config.limit)
    if evaluation is None:
        evaluation = _digits(config, "digits, test images", data.test_images, data.test_labels, config.eval_limit)
    return calibration, evaluation


def _open(config: CompileConfig, model: LoadedModel, spec: str | None, limit: int | None) -> Dataset | None:
    if spec is None:
        return None
    if is_python_spec(spec) and not config.quiet:
        note(f"{spec} is Python code and is run.")
    return open_dataset(spec, _preprocess(config), model.input_names, config.batch_size, limit)


def _digits(
    config: CompileConfig, name: str, images: np.ndarray, labels: np.ndarray, limit: int | None
) -> Dataset:
    dataset = from_arrays(images, _preprocess(config), ("x",), config.batch_size, limit, labels)
    return dataclasses.replace(dataset, name=name)


def _preprocess(config: CompileConfig) -> Preprocess:
    """What was declared; else what `digits` was trained with, or nothing."""
    if config.preprocess is not None:
        return config.preprocess
    if config.model != EMBEDDED:
        return Preprocess()
    own = digits_model.PREPROCESSING
    return Preprocess.model_validate(dataclasses.asdict(own))
