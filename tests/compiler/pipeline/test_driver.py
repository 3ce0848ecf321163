import json
from pathlib import Path

import onnx
import pytest
import torch
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.errors import (
    BackendUnavailableError,
    BundleError,
    CaptureError,
    InputError,
    UnsupportedOpsError,
    VerificationError,
)
from fxedge.compiler.pipeline.bundle import read_bundle
from fxedge.compiler.pipeline.data import from_arrays
from fxedge.compiler.pipeline.driver import (
    CompileReport,
    compile_model,
    example_inputs,
    golden_inputs,
    graph_hash,
)
from fxedge.compiler.pipeline.manifest import Manifest
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.pipeline.verify import verify_bundle
from small_compile import (
    compile_small,
    leftovers,
    patch_backend,
    patch_missing,
    small_data,
    small_images,
    small_model,
)
from torch import Tensor, nn


def refuse_to_emit(monkeypatch: pytest.MonkeyPatch, target: str, *reason: str) -> None:
    """The emitter of a target writes half an artifact and then finds that it cannot lower an op."""

    def emit(program: object, path: Path, expose: object = ()) -> None:
        path.write_bytes(b"half")
        raise UnsupportedOpsError(target, [reason])  # type: ignore[list-item]

    patch_backend(monkeypatch, target, "emit", emit)


def test_an_unknown_instruction_set_is_refused_before_the_model_is_read(tmp_path: Path):
    with pytest.raises(InputError) as error:
        compile_model(
            tmp_path / "absent.pt2",
            small_data(),
            ("onnx", "x86"),
            tmp_path / "out",
            options=CompileOptions(isa="sse9"),
        )
    assert str(error.value) == (
        "No instruction set 'sse9' is known to the target(s) onnx, x86; allowed: onnx: safe, native, avx2, vnni, "
        "neon; "
        "x86: safe, native, avx2, vnni."
    )
    assert leftovers(tmp_path) == []


def test_the_bundle_holds_what_the_manifest_says(compiled: tuple[Path, CompileReport]):
    folder, report = compiled
    assert read_bundle(folder) == report.manifest
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "golden/inputs.safetensors",
        "golden/onnx.neon.safetensors",
        "golden/onnx.safetensors",
        "layers/onnx.json",
        "manifest.json",
        "onnx/float_model.onnx",
        "onnx/model.onnx",
    ]


def test_files_added_at_the_end_are_in_the_manifest(tmp_path: Path):
    def finish(folder: Path, manifest: Manifest) -> None:
        assert list(manifest.targets) == ["onnx"]
        (folder / "more.txt").write_text(manifest.model)

    report = compile_model(
        small_model(), small_data(), ["onnx"], tmp_path / "out", model_name="net", finish=finish
    )
    manifest = read_bundle(tmp_path / "out")
    assert manifest == report.manifest
    assert manifest.files["more.txt"].size == len("net")


def test_a_finish_that_fails_leaves_nothing(tmp_path: Path):
    def finish(folder: Path, manifest: Manifest) -> None:
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        compile_model(small_model(), small_data(), ["onnx"], tmp_path / "out", finish=finish)
    assert list(tmp_path.iterdir()) == []


def test_the_report_has_times_sizes_and_measurements(compiled: tuple[Path, CompileReport]):
    report = compiled[1]
    assert list(report.seconds) == ["capture and passes", "calibrate", "verify", "lower and emit"]
    result = report.results["onnx"]
    assert result.size == (compiled[0] / "onnx" / "model.onnx").stat().st_size
    assert result.float_size == (compiled[0] / "onnx" / "float_model.onnx").stat().st_size
    assert report.failures == {}


@pytest.mark.parametrize("target", ["onnx", "fbgemm"])
def test_the_same_compilation_gives_the_same_bytes(tmp_path: Path, target: str):
    for name in ("a", "b"):
        compile_small(tmp_path / name, (target,))
    for path in (tmp_path / "a").rglob("*"):
        if path.is_file():
            other = tmp_path / "b" / path.relative_to(tmp_path / "a")
            assert path.read_bytes() == other.read_bytes(), path.name


def test_evaluation_data_may_be_a_stream(tmp_path: Path):
    evaluation = from_arrays(lambda: (batch for batch in [small_images(3), small_images(2)]))
    report = compile_model(
        small_model(),
        small_data(),
        ("onnx",),
        tmp_path / "b",
        evaluation=evaluation,
        options=CompileOptions(timed_runs=0),
    )
    agreement = report.results["onnx"].checked.agreement
    assert agreement is not None
    assert agreement.total == 5
    assert report.results["onnx"].checked.accuracy is None


def test_one_sample_of_fixed_size(tmp_path: Path):
    report = compile_small(tmp_path / "b", dynamic_axes=())
    assert report.manifest is not None
    assert report.manifest.inputs[0].shape == (1, 1, 6, 6)
    assert report.results["onnx"].checked.end_to_end.samples == 12


@pytest.mark.parametrize("recipe", ["default", "data-free"])
def test_an_exported_program_of_one_batch_size(tmp_path: Path, recipe: str):
    program = torch.export.export(small_model().eval(), (small_images(3),))
    report = compile_model(
        program, small_data(12), ("onnx",), tmp_path / "b", options=CompileOptions(recipe=recipe, timed_runs=0)
    )
    assert report.manifest is not None
    assert report.manifest.inputs[0].shape == (3, 1, 6, 6)


def test_without_the_float_artifact(tmp_path: Path):
    report = compile_small(tmp_path / "b", float_artifact=False)
    assert report.results["onnx"].float_size is None
    assert not (tmp_path / "b" / "onnx" / "float_model.onnx").exists()


def test_a_target_that_fails_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    refuse_to_emit(monkeypatch, "fbgemm", "conv", "conv2d.default", "too wide")
    report = compile_small(tmp_path / "b", ("onnx", "fbgemm"))
    assert list(report.results) == ["onnx"]
    assert {name: str(error) for name, error in report.failures.items()} == {
        "fbgemm": "1 op(s) cannot be lowered to fbgemm:\n  conv conv2d.default: too wide"
    }
    assert list(read_bundle(tmp_path / "b").targets) == ["onnx"]
    assert not (tmp_path / "b" / "fbgemm").exists()


def test_a_target_that_is_not_verified_is_not_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    patch_backend(monkeypatch, "onnx", "unfused", lambda program, path: ("conv2d",))
    with pytest.raises(VerificationError) as caught:
        compile_small(tmp_path / "b")
    assert str(caught.value) == (
        "onnx: 1 op(s) planned as int8 run in float after the runtime's own optimizer: conv2d."
    )
    assert list(tmp_path.iterdir()) == []


def test_every_target_failing_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    refuse_to_emit(monkeypatch, "onnx", "a", "b", "c")
    patch_missing(monkeypatch, "fbgemm", "the engine is missing")
    with pytest.raises(InputError) as caught:
        compile_small(tmp_path / "b", ("onnx", "fbgemm"))
    assert str(caught.value) == (
        "No target could be compiled. [fbgemm] Target fbgemm cannot be used here: the engine is missing "
        "[onnx] 1 op(s) cannot be lowered to onnx:\n  a b: c"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_runtime_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    patch_missing(monkeypatch, "onnx", "run: pip install onnxruntime")
    with pytest.raises(BackendUnavailableError) as caught:
        compile_small(tmp_path / "b")
    assert str(caught.value) == "Target onnx cannot be used here: run: pip install onnxruntime"


def test_a_folder_that_exists_is_told_before_the_work(compiled: tuple[Path, CompileReport]):
    with pytest.raises(BundleError, match="exists already"):
        compile_model(small_model(), small_data(), ("onnx",), compiled[0])


def test_a_forced_compilation_that_fails_keeps_the_good_bundle(tmp_path: Path):
    compile_small(tmp_path / "b")
    before = (tmp_path / "b" / "manifest.json").read_bytes()
    wrong = from_arrays(torch.zeros(4, 1, 5, 5))
    with pytest.raises(CaptureError):
        compile_model(small_model(), wrong, ("onnx",), tmp_path / "b", force=True)
    assert (tmp_path / "b" / "manifest.json").read_bytes() == before
    assert leftovers(tmp_path) == []


def test_examples_and_golden_inputs():
    data, one = small_data(), small_data(1)
    assert [tuple(tensor.shape) for tensor in example_inputs(data)] == [(2, 1, 6, 6)]
    assert [tuple(tensor.shape) for tensor in example_inputs(data, 1)] == [(1, 1, 6, 6)]
    assert torch.equal(example_inputs(one)[0][0], example_inputs(one)[0][1])
    assert torch.equal(golden_inputs(data, 6)[0], small_images(12)[:6])
    assert len(golden_inputs(one, 6)[0]) == 1


def test_the_model_hash_knows_weights():
    model = small_model()
    gm = capture(model, (small_images(2),))
    before = graph_hash(gm)
    assert before == graph_hash(capture(small_model(), (small_images(2),)))
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] += 1
    assert graph_hash(gm) != before


class Unusual(nn.Module):
    """An input called `input`, whose node is `input_1`; outputs that are twice the same, an input, a constant and
    booleans, under names that inputs and other outputs have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.register_buffer("table", torch.arange(3.0))

    def forward(self, input: Tensor, output: Tensor) -> dict[str, object]:
        y = self.conv(input)
        return {"a": (y, y), "a_0": input, "input": y, "output": self.table, "mask": y > output}


def test_names_and_outputs_of_every_kind(tmp_path: Path):
    torch.manual_seed(0)
    images = torch.randn(4, 1, 6, 6)
    data = from_arrays((images, images[:, :, :1, :1]), input_names=("input", "output"))
    options = CompileOptions(timed_runs=0, float_artifact=False)
    report = compile_model(Unusual(), data, ["onnx", "x86"], tmp_path / "bundle", options=options)
    assert report.failures == {}
    assert report.manifest is not None
    assert [entry.name for entry in report.manifest.inputs] == ["input", "output"]
    names = ["a_0", "a_1", "a_0_out", "input_out", "output_out", "mask"]
    assert [entry.name for entry in report.manifest.targets["x86"].outputs] == names
    session = onnx.load(tmp_path / "bundle" / "onnx" / "model.onnx").graph
    assert [value.name for value in session.input] == ["input", "output"]
    assert [value.name for value in session.output] == names
    assert verify_bundle(tmp_path / "bundle").passed


def test_an_explanation_only_where_it_is_asked_for(tmp_path: Path, compiled: tuple[Path, CompileReport]):
    plain, report = compiled
    assert report.explanations == {}
    assert not (plain / "explain").exists()
    found = compile_small(tmp_path / "out", explain=True).explanations["onnx"]
    written = json.loads((tmp_path / "out" / "explain" / "onnx.json").read_text())
    assert written == json.loads(json.dumps(found.to_json()))
    assert found.passes[0].name == "capture"
    assert [layer.node for layer in found.layers] == ["x", "conv2d", "flatten", "linear"]
    assert found.samples == 3
    assert verify_bundle(tmp_path / "out").passed


def test_max_drop_keeps_layers_float_and_says_which(tmp_path: Path):
    images = small_images(24)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3))
    options = CompileOptions(max_drop=0.01, timed_runs=0)
    report = compile_model(model, from_arrays(images), ["onnx"], tmp_path / "out", options=options)
    found = report.results["onnx"].max_drop
    assert found is not None
    assert found.drop <= 0.01 < found.without
    assert set(found.relief.floats) == {"conv2d", "conv2d_1"}
    assert report.manifest is not None
    entry = report.manifest.targets["onnx"]
    assert entry.max_drop is not None
    assert (entry.max_drop.floats, entry.max_drop.unit) == (found.relief.floats, "% of the outputs' magnitude")
    assert entry.integer_ops == 0


def test_golden_samples_have_one_size() -> None:
    batches = [(torch.zeros(2, 5),), (torch.zeros(2, 5),), (torch.zeros(2, 7),)]
    data = from_arrays(batches, None, ["x"], 2)
    assert [tuple(tensor.shape) for tensor in golden_inputs(data, 3)] == [(3, 5)]
    assert [tuple(tensor.shape) for tensor in golden_inputs(data, 6)] == [(4, 5)]
