from pathlib import Path

import numpy as np
import pytest
from fxedge.backends import registry
from fxedge.backends.base import InputFact
from fxedge.compiler.ir.errors import BackendUnavailableError, InputError
from fxedge.compiler.tools.bench.peers import fit_inputs, reader_of
from small_compile import patch_missing

PEER = Path("peer.tflite")
IMAGE = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)


def peer(folder: Path, name: str) -> Path:
    path = folder / name
    path.touch()
    return path


def refusal(facts: list[InputFact], **given: np.ndarray) -> str:
    with pytest.raises(InputError) as caught:
        fit_inputs(PEER, given, facts)
    return str(caught.value)


def test_the_same_inputs_pass_as_they_are():
    (array,), done = fit_inputs(PEER, {"x": IMAGE}, [InputFact("input", (None, 3, 4, 5), "float32")])
    np.testing.assert_array_equal(array, IMAGE, strict=True)
    assert done == ()
    assert fit_inputs(PEER, {"x": IMAGE}, None)[1] == ()


def test_channels_last():
    (array,), done = fit_inputs(PEER, {"x": IMAGE}, [InputFact("input", (2, 4, 5, 3), "float32")])
    np.testing.assert_array_equal(array, IMAGE.transpose(0, 2, 3, 1), strict=True)
    assert array.flags.c_contiguous
    assert done == ("x: channels moved to the last axis",)


def test_integers_that_stand_for_numbers():
    (array,), done = fit_inputs(PEER, {"x": IMAGE}, [InputFact("input", (2, 4, 5, 3), "uint8", 0.5, 10)])
    expected = np.clip(np.rint(IMAGE.transpose(0, 2, 3, 1) / 0.5) + 10, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(array, expected, strict=True)
    assert done == ("x: channels moved to the last axis", "x: quantized to uint8")


def test_other_widths():
    ids = np.array([[1, 2]], dtype=np.int64)
    (array,), done = fit_inputs(PEER, {"ids": ids}, [InputFact("ids", (1, 2), "int32")])
    np.testing.assert_array_equal(array, ids.astype(np.int32), strict=True)
    assert done == ("ids: cast to int32",)
    (half,), _ = fit_inputs(PEER, {"x": IMAGE}, [InputFact("x", IMAGE.shape, "float16")])
    assert half.dtype == np.float16


def test_by_name_where_all_agree_else_in_order():
    a, b = np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)
    facts = [InputFact(name, (1, 2), "float32") for name in ("b", "a")]
    assert [array[0, 0] for array in fit_inputs(PEER, {"a": a, "b": b}, facts)[0]] == [1, 0]
    facts = [InputFact(name, (1, 2), "float32") for name in ("b", "c")]
    assert [array[0, 0] for array in fit_inputs(PEER, {"a": a, "b": b}, facts)[0]] == [0, 1]


def test_what_does_not_fit_is_refused():
    assert refusal([InputFact("input", (1, 4, 5, 3), "float32")], x=IMAGE) == (
        "--against peer.tflite: input input takes [1, 4, 5, 3], the bundle's inputs are [2, 3, 4, 5]; give a "
        "model of the same input size, or another --batch."
    )
    assert refusal([InputFact("input", (None, 3, 4, 5), "uint8")], x=IMAGE) == (
        "--against peer.tflite: input input takes uint8, the bundle's inputs are float32, and the model does not "
        "say how the one stands for the other."
    )
    assert refusal([InputFact("ids", (1,), "int8")], ids=np.array([300])).startswith(
        "--against peer.tflite: input ids takes int8, the bundle's inputs are int64"
    )
    assert refusal([InputFact("s", (2, 3, 4, 5), "tensor(string)")], x=IMAGE) == (
        "--against peer.tflite: input s is tensor(string), not an array of numbers."
    )
    assert refusal([], x=IMAGE) == (
        "--against peer.tflite takes 0 input(s), the bundle has 1; it is another model."
    )


def test_its_reader_is_the_target_itself_or_the_first_that_is_here(tmp_path: Path):
    path = peer(tmp_path, "peer.onnx")
    assert reader_of(path, "onnx") == "onnx"
    assert reader_of(path, "x86") == "onnx"
    if registry.get("openvino").missing() is None:
        assert reader_of(path, "openvino") == "openvino"
    assert reader_of(path, "tensorrt") == "onnx", "a stand-in's times say nothing"


def test_no_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError) as caught:
        reader_of(peer(tmp_path, "peer.gguf"), "onnx")
    assert str(caught.value) == (
        f"No runtime reads {tmp_path}/peer.gguf: --against takes files that end in .onnx, .pt, .pte, .ptl, "
        ".tflite."
    )
    with pytest.raises(InputError, match=r"none\.onnx does not exist or is no file"):
        reader_of(tmp_path / "none.onnx", "onnx")
    patch_missing(monkeypatch, "tflite", "run: pip install ai-edge-litert")
    with pytest.raises(BackendUnavailableError) as unavailable:
        reader_of(peer(tmp_path, "peer.tflite"), "onnx")
    assert str(unavailable.value) == (
        f"No runtime that reads {tmp_path}/peer.tflite is installed: run: pip install ai-edge-litert"
    )
