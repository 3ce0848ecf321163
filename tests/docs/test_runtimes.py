"""docs/runtimes: what the pages say of targets is what the targets say, and their Python runs on a real bundle."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest
from fxedge.backends import registry
from fxedge.compiler.ir.ops import op_name
from fxedge.compiler.quant.target import TargetSpec
from fxedge.compiler.tools.cli import run
from fxedge.compiler.tools.targets import spec_text

FOLDER = Path(__file__).parents[2] / "docs" / "runtimes"
PAGES: Mapping[str, tuple[str, ...]] = {
    "onnx": ("onnx",),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt",),
    "torch": ("x86", "onednn", "fbgemm"),
    "qnnpack": ("qnnpack",),
    "tflite": ("tflite",),
    "executorch": ("executorch",),
}
# Ends each snippet: the bundle's golden outputs, which the same artifact gives in the same runtime.
COMPARE = """
import numpy
from safetensors.numpy import load_file

(golden,) = load_file("bundle/golden/{target}.safetensors").values()
numpy.testing.assert_allclose(logits, golden, rtol=0, atol=1e-5)
"""


def _page(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def _facts(spec: TargetSpec) -> str:
    """What a target takes, as the page has it."""
    worst: dict[str, int] = {}
    for op, rule in spec.ops.items():
        name = op_name(op).partition(".")[0]
        worst[name] = max(rule.tolerance, worst.get(name, 0))
    ops = {lsb: sorted(name for name in worst if worst[name] == lsb) for lsb in sorted(set(worst.values()))}
    lines = [
        f"* Activations {spec_text(spec.activation)}, weights {spec_text(spec.weight)}, biases {spec.bias}.",
        *(f"* {_how(lsb)}: {', '.join(names)}." for lsb, names in ops.items()),
    ]
    wrapped = [textwrap.fill(line, 115, subsequent_indent="  ", break_on_hyphens=False) for line in lines]
    return "\n".join([f"<!-- target: {spec.name} -->", *wrapped, "<!-- end -->"])


def _how(lsb: int) -> str:
    return f"Within {lsb} LSB of the simulator" if lsb else "Exactly the simulator's integers"


def test_every_target_has_a_page_that_the_index_names() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(PAGES)
    assert sorted(target for targets in PAGES.values() for target in targets) == sorted(registry.names())
    index = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    for name in PAGES:
        assert f"runtimes/{name}.md" in index


@pytest.mark.parametrize("name", PAGES)
def test_what_runs_on_integers_is_what_the_target_says(name: str, request: pytest.FixtureRequest) -> None:
    spec, *others = (registry.get(target).spec for target in PAGES[name])
    for other in others:
        assert _facts(other).splitlines()[1:] == _facts(spec).splitlines()[1:], "one list stands for all of them"
    text, expected = _page(name), _facts(spec)
    (found,) = re.findall(r"<!-- target: .*?<!-- end -->", text, re.DOTALL)
    if request.config.getoption("--update-golden"):
        (FOLDER / f"{name}.md").write_text(text.replace(found, expected), encoding="utf-8")
        return
    assert found == expected, "pytest tests/docs/test_runtimes.py --update-golden renews the list, if it is right"


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_the_python_of_the_page_runs_on_a_bundle(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = PAGES[name][0]
    if (missing := registry.get(target).missing()) is not None:
        pytest.skip(missing)
    (code,) = re.findall(r"```python\n(.*?)```", _page(name), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    small = "--recipe fast --limit 32 --eval-limit 16 --parity-samples 4 --timed-runs 0 --no-float -q -o bundle"
    assert run(["compile", "digits", "--target", target, *small.split()]) == 0, capsys.readouterr().err
    command = [sys.executable, "-W", "ignore", "-c", code + COMPARE.format(target=target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
