from pathlib import Path

import numpy as np
import pytest
import torch
from fxedge.compiler.ir.errors import CaptureError, InputError
from fxedge.compiler.pipeline.preprocess import Preprocess
from fxedge.compiler.tools.config import CompileConfig
from fxedge.compiler.tools.inputs import load_data, load_model
from fxedge.models.checkpoints import CheckpointError
from fxedge.models.digits import digits_data, preprocess
from fxedge.models.registry import UnknownModelError
from small_compile import small_images, small_model
from torch import nn


def save_pt2(path: Path) -> Path:
    program = torch.export.export(
        small_model().eval(), (small_images(2),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    torch.export.save(program, path)
    return path


def failure(spec: str, weights: Path | None = None) -> str:
    with pytest.raises((InputError, CaptureError, CheckpointError, UnknownModelError)) as caught:
        load_model(spec, weights)
    return str(caught.value)


def test_user_code_is_named_as_code(net: str, capsys: pytest.CaptureFixture[str]):
    loaded = load_model(f"{net}:make")
    assert isinstance(loaded.model, nn.Sequential)
    assert (loaded.name, loaded.input_names, loaded.examples) == ("net.py:make", ("x",), None)
    assert capsys.readouterr() == ("", "note: net.py:make is Python code and is run.\n")
    load_model(f"{net}:make", quiet=True)
    assert capsys.readouterr() == ("", "")


def test_an_exported_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = save_pt2(tmp_path / "net.pt2")
    loaded = load_model(str(path))
    assert (loaded.name, loaded.input_names) == ("net", ("x",))
    assert loaded.examples is not None
    assert torch.equal(loaded.examples[0], small_images(2))
    assert capsys.readouterr().err == (
        f"note: {path} is code: torch's loader unpickles and evaluates what it holds.\n"
    )


def test_a_reference_model_brings_example_inputs():
    loaded = load_model("residual")
    assert (loaded.name, loaded.input_names) == ("residual", ("x",))
    assert loaded.examples is not None
    assert len(loaded.examples[0]) == 2


def test_weights_go_into_the_model(net: str, tmp_path: Path):
    state = {key: value + 1 for key, value in small_model().state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    model = load_model(f"{net}:make", tmp_path / "w.pt", quiet=True).model
    assert isinstance(model, nn.Module)
    assert torch.equal(model.state_dict()["0.weight"], state["0.weight"])


def test_what_is_no_model(net: str, tmp_path: Path):
    pt2 = save_pt2(tmp_path / "net.pt2")
    assert failure(f"{net}:number") == (
        "net.py:number returned a int; allowed: an nn.Module, an fx.GraphModule, or an ExportedProgram"
    )
    assert failure("absent.py:make") == (
        "the Python file absent.py (of 'absent.py:make') does not exist: check the path"
    )
    assert (
        failure("absent.pt2")
        == "absent.pt2 does not exist; give the path of a .pt2 file made by torch.export.save."
    )
    assert failure("net.onnx") == (
        "the model net.onnx is a file of another kind; allowed: file.py:factory (a function that returns the "
        "model; --weights loads a checkpoint into it), a .pt2 file, or the name of a reference model"
    )
    assert failure("residul") == "no reference model is called 'residul'; close: residual"
    assert failure(str(pt2), tmp_path / "w.pt") == (
        f"{pt2} is an exported program, which holds its weights: leave out --weights"
    )
    assert failure(f"{net}:make", tmp_path / "w.pt") == f"checkpoint {tmp_path / 'w.pt'}: no such file"


def test_digits_bring_their_data():
    model = load_model("digits")
    calibration, evaluation = load_data(CompileConfig(limit=20, eval_limit=10), model)
    assert evaluation is not None
    assert (calibration.name, calibration.count) == ("digits, calibration images", 20)
    assert (evaluation.name, evaluation.count) == ("digits, test images", 10)
    batch = next(iter(evaluation))
    assert torch.equal(batch.inputs[0], preprocess(digits_data().test_images[:10]))
    assert batch.labels is not None
    assert batch.labels.tolist() == digits_data().test_labels[:10].tolist()


def test_data_that_were_given_replace_those_of_digits(tmp_path: Path):
    np.save(tmp_path / "x.npy", digits_data().calib_images[:5])
    model = load_model("digits")
    config = CompileConfig(calib=str(tmp_path / "x.npy"))
    calibration, evaluation = load_data(config, model)
    assert (calibration.count, evaluation) == (5, None)
    assert torch.equal(next(iter(calibration)).inputs[0], preprocess(digits_data().calib_images[:5]))
    raw = load_data(config.model_copy(update={"preprocess": Preprocess(layout="NHWC")}), model)[0]
    assert next(iter(raw)).inputs[0].max() == 16


def test_every_other_model_needs_data():
    with pytest.raises(InputError) as caught:
        load_data(CompileConfig(model="residual"), load_model("residual"))
    assert str(caught.value) == (
        "no calibration data for residual: give --calib with a folder of images, a .npy, .npz or "
        ".safetensors file, or file.py:loader; without any, --recipe data-free makes images of its own"
    )


def test_loaders_are_named_as_code(net: str, capsys: pytest.CaptureFixture[str]):
    model = load_model(f"{net}:make", quiet=True)
    load_data(CompileConfig(model="net.py:make", calib="net.py:batches"), model)
    assert capsys.readouterr() == ("", "note: net.py:batches is Python code and is run.\n")
