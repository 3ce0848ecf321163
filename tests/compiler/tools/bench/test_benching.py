import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fxedge.compiler.pipeline.bundle import file_entry
from fxedge.compiler.tools.bench import benching
from fxedge.compiler.tools.bench.energy import EnergyMeter
from fxedge.compiler.tools.bench.record import BenchRecord
from small_compile import leftovers, patch_missing

FEW = ("--runs", 7, "--seconds", 60)


def test_int8_float_and_a_peer_in_one_run(fxedge: Callable, bundle: Path, tmp_path: Path):
    """The peer is the bundle's own float model under another name: any .onnx will do."""
    peer = Path(shutil.copy(bundle / "onnx" / "float_model.onnx", tmp_path / "peer.onnx"))
    path = tmp_path / "run.json"
    status, out, err = fxedge("bench", bundle, *FEW, "--batch", 2, "--against", peer, "--json", path)
    assert (status, err) == (0, "")
    assert [line.split()[:3] for line in out.splitlines()[4:7]] == [
        ["onnx", "1", "float"],
        ["onnx", "1", "int8"],
        ["onnx", "1", "peer.onnx"],
    ]
    assert "onnx, 1 thread: float / int8 " in out
    assert "onnx, 1 thread: peer.onnx / int8 " in out
    found = BenchRecord.model_validate_json(path.read_text())
    assert leftovers(tmp_path) == []
    assert [entry.contestant for entry in found.results] == ["float", "int8", "peer.onnx"]
    for entry in found.results:
        assert (len(entry.seconds), entry.batch) == (7, 2)
        assert entry.median <= entry.p90 <= entry.p99 == max(entry.seconds)
        assert entry.samples_per_second == pytest.approx(2 / entry.median)
        assert 0 < entry.first_load < entry.cold_start
        assert entry.sha256 == file_entry(Path(entry.artifact)).sha256
        assert entry.joules is not None or entry.no_energy is not None
        assert "onnxruntime" in entry.versions
    assert [(ratio.above, ratio.below, ratio.pairs) for ratio in found.ratios] == [
        ("float", "int8", 7),
        ("peer.onnx", "int8", 7),
    ]
    assert {"torch", "numpy"} <= set(found.libraries)


def test_threads_and_json_on_stdout(fxedge: Callable, bundle: Path):
    status, out, err = fxedge("bench", bundle, "--runs", 1, "--threads", "1,2", "--json", "-")
    assert (status, err) == (0, "")
    found = BenchRecord.model_validate(json.loads(out))
    assert [entry.threads for entry in found.results] == [1, 1, 2, 2]
    assert found.ratios[0].low is None, "one pair gives no interval"


def test_energy_where_the_processor_tells_it(
    fxedge: Callable, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "energy_uj").write_text("7\n")
    monkeypatch.setattr(benching, "find_meter", lambda: EnergyMeter({tmp_path: 1000}))
    path = tmp_path / "run.json"
    status, out, err = fxedge("bench", bundle, "--runs", 1, "--json", path)
    assert (status, err) == (0, "")
    assert out.splitlines()[3].endswith("mJ/sample")
    assert "not available" not in out.partition("\n")[2]
    found = BenchRecord.model_validate_json(path.read_text())
    assert [(entry.joules, entry.no_energy) for entry in found.results] == [(0.0, None)] * 2


def test_a_damaged_bundle_is_not_run(fxedge: Callable, bundle: Path, tmp_path: Path):
    copied = Path(shutil.copytree(bundle, tmp_path / "b"))
    (copied / "onnx" / "float_model.onnx").write_bytes(b"no model")
    status, out, err = fxedge("bench", copied, *FEW, "--json", tmp_path / "run.json")
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {copied}/onnx/float_model.onnx has 8 bytes, not the ")
    assert not (tmp_path / "run.json").exists()


def test_a_float_artifact_without_a_hash_is_not_run(fxedge: Callable, bundle: Path, tmp_path: Path):
    copied = Path(shutil.copytree(bundle, tmp_path / "b"))
    raw = json.loads((copied / "manifest.json").read_text())
    raw["targets"]["onnx"]["float_artifact"] = "../evil.onnx"
    (copied / "manifest.json").write_text(json.dumps(raw))
    assert fxedge("bench", copied, *FEW) == (
        2,
        "",
        f"error: The manifest of {copied} names '../evil.onnx' but gives no hash of it.\n",
    )


def test_a_peer_of_other_inputs(fxedge: Callable, bundle: Path, tmp_path: Path):
    import onnx
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 7]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    peer = tmp_path / "peer.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), peer)
    assert fxedge("bench", bundle, *FEW, "--against", peer) == (
        2,
        "",
        f"error: --against {peer}: input x takes [1, 7], the bundle's inputs are [1, 1, 6, 6]; give a model of "
        "the same input size, or another --batch.\n",
    )
    peer.write_bytes(b"no model")
    status, out, err = fxedge("bench", bundle, *FEW, "--against", peer)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: --against {peer}: The onnx runtime could not load: ")


def test_a_runtime_that_is_not_here(fxedge: Callable, bundle: Path, monkeypatch: pytest.MonkeyPatch):
    patch_missing(monkeypatch, "onnx", "run: pip install onnxruntime")
    assert fxedge("bench", bundle) == (
        2,
        "",
        "error: No artifact can be measured here. Target onnx cannot be used here: run: pip install onnxruntime\n",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Nothing to measure: give folders that fxedge compile wrote."),
        (("{bundle}", "--threads", "0"), "--threads takes whole numbers from 1 on, separated by commas, not '0'."),
        (("{bundle}", "--target", "x86"), "{bundle} has no target 'x86'; it has onnx."),
        (("{folder}",), "{folder} is not a bundle (no manifest.json); give a folder that fxedge compile wrote."),
        (
            ("{bundle}", "--json", "{folder}/no/run.json"),
            "The folder {folder}/no does not exist; create it or choose another place.",
        ),
    ],
)
def test_wrong_input(fxedge: Callable, bundle: Path, tmp_path: Path, arguments: tuple[str, ...], message: str):
    places = {"bundle": bundle, "folder": tmp_path}
    given = [text.format(**places) for text in arguments]
    assert fxedge("bench", *given) == (2, "", f"error: {message.format(**places)}\n")


def test_a_model_of_one_batch_size(fxedge: Callable, bundle: Path, tmp_path: Path):
    copied = Path(shutil.copytree(bundle, tmp_path / "b"))
    raw = json.loads((copied / "manifest.json").read_text())
    raw["inputs"][0]["shape"][0] = 4
    (copied / "manifest.json").write_text(json.dumps(raw))
    assert fxedge("bench", copied, "--batch", 2) == (
        2,
        "",
        f"error: The model of {copied} takes batches of 4; leave --batch 2 out.\n",
    )
    status, out, _ = fxedge("bench", copied, "--runs", 1, "--json", "-")
    assert (status, json.loads(out)["results"][0]["batch"]) == (0, 4)
