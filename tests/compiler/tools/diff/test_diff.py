"""Two bundles of the small model: as it is, and with weights of 3 bits and the linear layer in float."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fxedge.compiler.ir.errors import InputError
from fxedge.compiler.ir.progress import Silent
from fxedge.compiler.pipeline.accuracy import Share
from fxedge.compiler.pipeline.layers import NodeEntry, read_layers
from fxedge.compiler.tools.bench.figures import Ratio
from fxedge.compiler.tools.diff.compare import (
    BundleDiff,
    LatencyChange,
    LayerChange,
    ShareChange,
    _layer_changes,
    diff_bundles,
)
from fxedge.compiler.tools.diff.limits import Limits, broken_limits
from fxedge.compiler.tools.diff.show import diff_json, markdown
from small_compile import compile_small


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("old") / "bundle"
    compile_small(out, ("onnx", "x86"), recipe="fast")
    return out


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("new") / "bundle"
    compile_small(out, ("onnx",), recipe="fast", weight_bits=3, keep_float=("linear",))
    return out


@pytest.fixture(scope="module")
def changed(old: Path, new: Path) -> BundleDiff:
    return diff_bundles(old, new, targets=(), runs=8, threads=1, progress=Silent())


def test_what_changed(changed: BundleDiff, old: Path, new: Path) -> None:
    (found,) = changed.targets
    assert (found.target, changed.lost, changed.added, changed.notes) == ("onnx", ("x86",), (), ())
    assert [(moved.node, moved.module, moved.reason) for moved in found.now_float] == [
        ("linear", "4", "kept float by 'linear'")
    ]
    assert found.now_int8 == ()
    assert [layer.node for layer in found.layers] == ["conv2d", "flatten"]
    assert all(layer.change < -10 for layer in found.layers)
    assert found.size == tuple((folder / "onnx" / "model.onnx").stat().st_size for folder in (old, new))
    assert found.latency is not None
    assert found.latency.ratio.value > 0
    assert found.accuracy is not None
    assert found.accuracy.old.total == found.accuracy.new.total == 12


def test_the_other_way_round(old: Path, new: Path) -> None:
    back = diff_bundles(new, old, targets=("onnx",), runs=0, threads=1, progress=Silent())
    (found,) = back.targets
    assert ([moved.node for moved in found.now_int8], found.now_float) == (["linear"], ())
    assert found.latency is None
    assert (back.lost, back.added) == ((), ())


def test_a_bundle_is_as_it_was(old: Path) -> None:
    same = diff_bundles(old, old, targets=(), runs=0, threads=1, progress=Silent())
    assert [found.target for found in same.targets] == ["onnx", "x86"]
    for found in same.targets:
        assert all(layer.change == 0 for layer in found.layers)
        assert found.size[0] == found.size[1]
        assert found.accuracy is not None
        assert found.accuracy.points == 0
    assert broken_limits(same, Limits(0, 0, 0, None, 0, 0)) == ()


def test_nothing_in_common(old: Path, new: Path) -> None:
    with pytest.raises(InputError) as caught:
        diff_bundles(old, new, targets=("x86",), runs=0, threads=1, progress=Silent())
    assert str(caught.value) == f"{new} has no target 'x86'; it has onnx."


def test_each_limit(changed: BundleDiff) -> None:
    (found,) = changed.targets
    told = dataclasses.replace(
        found,
        accuracy=ShareChange(Share(80, 100), Share(78, 100)),
        agreement=ShareChange(Share(99, 100), Share(90, 100)),
        layers=(LayerChange("conv2d", "0", 40.0, 30.0), LayerChange("linear", "4", 30.0, 31.0)),
        size=(1000, 1100),
        latency=LatencyChange(1.0, 1.3, Ratio(1.3, 1.2, 1.4)),
    )
    diff = dataclasses.replace(changed, targets=(told,), lost=())
    assert broken_limits(diff, Limits()) == ()
    assert broken_limits(diff, Limits(2, 9, 10, 20, 10, 1)) == ()
    assert broken_limits(diff, Limits(1.9, 8.5, 9.5, 19, 9, 0)) == (
        "onnx: accuracy fell by 2.00 points (allowed 1.9)",
        "onnx: agreement with float fell by 9.00 points (allowed 8.5)",
        "onnx: the SQNR of conv2d fell by 10.0 dB (allowed 9.5)",
        "onnx: latency is 1.30× [1.20, 1.40] of the old one (allowed 1.19)",
        "onnx: the artifact grew by 10.0 % (allowed 9 %)",
        "onnx: 1 op newly in float (allowed 0)",
    )


def test_a_limit_that_cannot_be_checked_is_broken(changed: BundleDiff) -> None:
    blind = dataclasses.replace(
        changed.targets[0], accuracy=None, agreement=None, layers=(), latency=None, has_layers=False
    )
    diff = dataclasses.replace(changed, targets=(blind,), lost=())
    assert broken_limits(diff, Limits()) == ()
    assert broken_limits(diff, Limits(1, 1, 1, 1, 100, 0)) == (
        "onnx: accuracy could not be checked: a bundle does not have it",
        "onnx: agreement with float could not be checked: a bundle does not have it",
        "onnx: --max-sqnr-drop could not be checked: no layer's error is known in both",
        "onnx: --max-slowdown could not be checked: there are no latencies, or too few runs",
        "onnx: --max-new-floats could not be checked: a bundle does not say what its ops run as",
    )


def test_a_layer_that_was_perfect_can_fall(new: Path, tmp_path: Path) -> None:
    layers = read_layers(new, "onnx")
    assert layers is not None
    perfect = [_without_error(node) for node in layers.nodes]
    found = list(_layer_changes(layers.model_copy(update={"nodes": tuple(perfect)}), layers))
    assert [layer.old for layer in found] == [200.0, 200.0]
    assert all(layer.change < -150 for layer in found)


def _without_error(node: NodeEntry) -> NodeEntry:
    if node.value is None or node.value.error is None:
        return node
    error = node.value.error.model_copy(update={"sqnr_db": None})
    return node.model_copy(update={"value": node.value.model_copy(update={"error": error})})


def test_noise_alone_is_not_too_slow(changed: BundleDiff) -> None:
    noisy = LatencyChange(1.0, 1.5, Ratio(1.5, 0.9, 2.0))
    diff = dataclasses.replace(changed, targets=(dataclasses.replace(changed.targets[0], latency=noisy),), lost=())
    assert broken_limits(diff, Limits(slowdown=10)) == ()


def test_a_lost_target_breaks_the_limits(changed: BundleDiff) -> None:
    assert broken_limits(changed, Limits()) == ("x86 is gone: the new bundle has no such target",)


def test_a_limit_must_be_a_number() -> None:
    with pytest.raises(InputError) as caught:
        Limits(accuracy_drop=-1)
    assert str(caught.value) == "--max-accuracy-drop is -1: it must be a number that is not negative"


def test_markdown_escapes_names_and_fits_a_comment(changed: BundleDiff) -> None:
    (found,) = changed.targets
    evil = LayerChange("|<script>`", "a*b", 40.0, 10.0)
    many = dataclasses.replace(found, layers=(evil,), now_float=found.now_float * 3000)
    long = markdown(dataclasses.replace(changed, targets=(many,) * 100), ("x",))
    assert len(long) < 65_536
    assert long.count("<details>") == long.count("</details>")
    assert long.endswith("* the rest is left out; `--json` has all of it")
    text = markdown(dataclasses.replace(changed, targets=(many,)), ("x",))
    assert "<script>" not in text
    assert "* and 2980 more now in float" in text
    assert r"a\*b (\|\<script\>\`) 40.0 → 10.0 dB (-30.0)" in text


def test_markdown_of_a_good_change(old: Path) -> None:
    same = diff_bundles(old, old, targets=("onnx",), runs=0, threads=1, progress=Silent())
    size = (old / "onnx" / "model.onnx").stat().st_size
    accuracy = markdown(same, ()).splitlines()[4].split(" | ")[1]
    assert markdown(same, ()).splitlines()[:5] == [
        "### fxedge: ✅ no limit is broken",
        "",
        "| target | accuracy | as float | worst layer | latency | size | newly float |",
        "|---|---|---|---|---|---|---|",
        f"| onnx | {accuracy} | 100.0 → 100.0 %, +0.0 \\[-24.2, +24.2\\] | +0.0 dB | - "
        f"| {size / 1e3:.1f} kB → {size / 1e3:.1f} kB (+0.0 %) | 0 |",
    ]


def test_as_json(changed: BundleDiff) -> None:
    found = json.loads(json.dumps(diff_json(changed, ("broken",))))
    assert (found["broken"], found["lost"]) == (["broken"], ["x86"])
    assert found["targets"]["onnx"]["now_float"] == [
        {"node": "linear", "module": "4", "reason": "kept float by 'linear'"}
    ]


def test_the_command(fxedge: Callable, old: Path, new: Path, tmp_path: Path) -> None:
    status, out, err = fxedge("diff", old, new, "--runs", "0", "--max-new-floats", "0")
    assert (status, err) == (1, "")
    assert out.splitlines()[-2:] == [
        "BROKEN  x86 is gone: the new bundle has no such target",
        "BROKEN  onnx: 1 op newly in float (allowed 0)",
    ]
    status, out, err = fxedge("diff", new, new, "--runs", "0", "--json")
    assert (status, json.loads(out)["broken"], err) == (0, [], "")


def test_a_damaged_bundle(fxedge: Callable, old: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(old, tmp_path / "b"))
    (copied / "layers" / "onnx.json").write_text("{}")
    size = (old / "layers" / "onnx.json").stat().st_size
    assert fxedge("diff", old, copied) == (
        2,
        "",
        f"error: {copied}/layers/onnx.json has 2 bytes, not the {size} of the manifest.\n",
    )
