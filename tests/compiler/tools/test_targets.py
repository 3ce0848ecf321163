import json
from collections.abc import Callable

import pytest
import torch
from fxedge.backends import registry
from fxedge.compiler.quant.qparams import QSpec
from fxedge.compiler.tools.tables import make_console
from fxedge.compiler.tools.targets import print_targets, spec_text


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (QSpec(0, 255, torch.uint8), "uint8 0..255"),
        (QSpec(-127, 127, torch.int8, symmetric=True, per_channel=True), "int8 ±127 per channel"),
        (QSpec(-128, 127, torch.int8, symmetric=True), "int8 -128..127"),
    ],
)
def test_specs_as_text(spec: QSpec, text: str):
    assert spec_text(spec) == text


def test_the_table_has_every_target(fxedge: Callable):
    status, out, err = fxedge("targets")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["target", "activations", "weights", "bias", "int8", "ops", "isa", "installed"]
    names = list(registry.names())
    assert [line.split()[0] for line in lines[1 : 1 + len(names)]] == names


def test_exactness_and_notes_in_words(capsys: pytest.CaptureFixture[str]):
    facts = {
        "activations": "uint8 0..255",
        "weights": "int8 ±127",
        "bias": "int32",
        "integer_ops": ["conv2d.default", "gelu.default"],
        "not_exact": {"silu.default": 2, "gelu.default": 1, "tanh.default": 1},
        "isa": [],
        "notes": ["Saturates without VNNI."],
        "missing": "run: pip install it",
    }
    print_targets(make_console(), {"a": facts, "b": facts | {"not_exact": {}, "notes": [], "missing": None}})
    assert capsys.readouterr().out == (
        "target   activations    weights     bias    int8 ops   isa   installed\n"
        "a        uint8 0..255   int8 ±127   int32   2          any   no\n"
        "b        uint8 0..255   int8 ±127   int32   2          any   yes\n"
        "a: gelu, tanh within 1 LSB; silu within 2 LSB; every other integer op is exact.\n"
        "a: Saturates without VNNI.\n"
        "a: run: pip install it\n"
        "b: every integer op is exact.\n"
    )


def test_as_json(fxedge: Callable):
    found = json.loads(fxedge("targets", "--json")[1])
    assert list(found) == list(registry.names())
    assert found["onnx"]["bias"] == "int32"
    assert "conv2d.default" in found["onnx"]["integer_ops"]
    assert (found["onnx"]["channel_clamp"], found["x86"]["channel_clamp"]) == ("fast", "slow")
    assert found["onnx"]["missing"] is None
