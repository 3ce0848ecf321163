from pathlib import Path

import pytest
from fxedge.compiler.ir.errors import InputError
from fxedge.compiler.pipeline.preprocess import Preprocess
from fxedge.compiler.quant.layer_options import LayerOptions
from fxedge.compiler.tools.config import CompileConfig, make_config, read_toml

FULL = """
model = "net.py:make"
weights = "net.pt"
calib = "images"
eval = "val.npz"
target = ["onnx", "x86"]
output = "out"
calibration = "percentile:99.9"
recipe = "default"
per_tensor = true
weight_bits = 6
weight_range = "mse"
isa = "vnni"
tracer = "symbolic"
dynamic_axes = [0, 1]
batch_size = 8
limit = 100
eval_limit = 50
keep_float = ["features.0.*"]
float = false
threads = 2
parity_samples = "all"
timed_runs = 0
force = true
quiet = true
json = true

[preprocess]
mean = [0.5]
scale = "1/255"
layout = "NHWC"

[layers."features.18.*"]
quantize = false

[layers.head]
weight_bits = 4
per_tensor = false
weight_range = "minmax"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "fxedge.toml"
    path.write_text(text)
    return path


def failure(folder: Path, text: str, flags: dict | None = None) -> str:
    with pytest.raises(InputError) as caught:
        make_config(flags or {}, write(folder, text))
    return str(caught.value)


def test_everything_in_a_file(tmp_path: Path):
    config = make_config({}, write(tmp_path, FULL))
    assert config.model == str(tmp_path / "net.py:make")
    assert (config.weights, config.output) == (tmp_path / "net.pt", tmp_path / "out")
    assert (config.calib, config.eval) == (str(tmp_path / "images"), str(tmp_path / "val.npz"))
    assert config.preprocess == Preprocess(mean=(0.5,), scale=1 / 255, layout="NHWC")
    assert (config.target, config.limit, config.eval_limit, config.batch_size) == (("onnx", "x86"), 100, 50, 8)
    assert config.force
    assert config.quiet
    assert config.as_json
    options = config.options()
    assert str(options.calibration) == "percentile:99.9"
    assert options.keep_float == ("features.0.*",)
    assert (options.weight_bits, options.weight_range, options.isa) == (6, "mse", "vnni")
    head = LayerOptions(weight_bits=4, per_tensor=False, weight_range="minmax")
    assert options.layers == {"features.18.*": LayerOptions(quantize=False), "head": head}
    assert list(options.layers) == ["features.18.*", "head"]
    assert (options.tracer, options.dynamic_axes, options.per_tensor_weights) == ("symbolic", (0, 1), True)
    assert (options.float_artifact, options.parity_samples, options.timed_runs, options.threads) == (
        False,
        None,
        0,
        2,
    )


def test_flags_override_the_file(tmp_path: Path):
    flags = {
        "model": "digits",
        "target": "all",
        "float": True,
        "limit": None,
        "keep_float": ["head"],
        "weight_bits": 5,
        "preprocess": {"mean": ("0.25",), "scale": None, "layout": "NCHW"},
    }
    config = make_config(flags, write(tmp_path, FULL))
    assert (config.model, config.target, config.float_artifact, config.limit) == ("digits", ("all",), True, 100)
    assert config.preprocess == Preprocess(mean=(0.25,), scale=1 / 255, layout="NCHW")
    assert (config.options().keep_float, config.options().weight_bits) == (("head",), 5)


def test_nothing_given_is_the_embedded_default():
    config = make_config({"preprocess": {"mean": None}}, None)
    assert config == CompileConfig()
    assert (config.model, config.target, config.preprocess) == ("digits", ("all",), None)


def test_names_of_reference_models_are_no_paths(tmp_path: Path):
    assert read_toml(write(tmp_path, 'model = "resnet18"'))["model"] == "resnet18"
    assert read_toml(write(tmp_path, 'model = "a/net.pt2"'))["model"] == str(tmp_path / "a/net.pt2")


def test_lists_may_be_written_with_commas(tmp_path: Path):
    config = make_config({}, write(tmp_path, 'target = "onnx, x86"\ndynamic_axes = ""'))
    assert (config.target, config.dynamic_axes) == (("onnx", "x86"), ())


def test_every_problem_is_named_at_once(tmp_path: Path):
    path = tmp_path / "fxedge.toml"
    assert failure(tmp_path, 'batch_size = 0\ntracer = "jit"') == (
        f"the options (flags and {path}): tracer is 'jit': input should be 'export' or 'symbolic'; "
        "batch_size is 0: input should be greater than or equal to 1."
    )


def test_a_ratio_is_a_share(tmp_path: Path):
    path = tmp_path / "fxedge.toml"
    assert failure(tmp_path, "split_ratio = 2") == (
        f"the options (flags and {path}): split_ratio is 2: input should be less than or equal to 1."
    )
    assert make_config({"split_ratio": 0.0}, None).options().split_ratio == 0.0


def test_unknown_keys(tmp_path: Path):
    path = tmp_path / "fxedge.toml"
    message = failure(tmp_path, "batchsize = 3")
    assert message.startswith(
        f"the options (flags and {path}): batchsize is not an option; allowed: model, weights,"
    )
    assert message.endswith("quiet, json, preprocess, layers.")
    assert failure(tmp_path, '[layers."a.*"]\nbits = 4\nquantize = false') == (
        f"the options (flags and {path}): layers.a.*.bits is not an option; allowed: quantize, weight_bits, "
        "per_tensor, weight_range."
    )
    assert failure(tmp_path, '[layers."a.*"]\nweight_bits = 9\nweight_range = "max"') == (
        f"the options (flags and {path}): layers.a.*.weight_bits is 9: input should be less than or equal to 8; "
        "layers.a.*.weight_range is 'max': input should be 'minmax' or 'mse'."
    )
    assert failure(tmp_path, "[preprocess]\nmeen = 1") == (
        "preprocessing: meen is not an option; allowed: mean, std, scale, layout, dtype, size, color"
    )
    assert failure(tmp_path, "preprocess = 3", {"preprocess": {"scale": "2"}}) == (
        f"preprocess in {path} is 3: write it as a table, [preprocess]"
    )


def test_files_that_cannot_be_read(tmp_path: Path):
    path = tmp_path / "fxedge.toml"
    assert failure(tmp_path, "model = ") == (
        f"the configuration {path} is not valid TOML: Invalid value (at end of document)"
    )
    with pytest.raises(InputError) as caught:
        make_config({}, tmp_path / "absent.toml")
    assert str(caught.value) == f"the configuration {tmp_path / 'absent.toml'} does not exist: check --config"


def test_an_unknown_calibration_method():
    with pytest.raises(InputError, match=r"^there is no calibration method 'best'; allowed: minmax, "):
        CompileConfig(calibration="best").options()
