from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from fxedge.backends import registry
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.errors import VerificationError
from fxedge.compiler.ir.progress import Silent
from fxedge.compiler.pipeline import check
from fxedge.compiler.pipeline.check import Artifacts, Checked, check_target, float_reference, saturation_named
from fxedge.compiler.pipeline.data import from_arrays
from fxedge.compiler.pipeline.driver import CompileReport
from fxedge.compiler.pipeline.parity import EndToEnd, NodeParity
from fxedge.compiler.quant.program import Program
from fxedge.compiler.quant.qparams import QParams
from fxedge.compiler.quant.simulate import simulate
from small_compile import patch_backend, small_data, small_images, small_model
from torch import nn


class SimulatedRuntime:
    """Stands for a runtime: the simulator's numbers, with `wrong[key][position]` added to an output."""

    def __init__(self, program: Program, wrong: dict[str, dict[int, np.ndarray | float]]) -> None:
        self.program, self.wrong = program, wrong

    def __enter__(self) -> "SimulatedRuntime":
        return self

    def __exit__(self, *details: object) -> None:
        pass

    def run(self, key: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        names = list(self.program.integer_values())
        found = simulate(self.program, [torch.from_numpy(array) for array in inputs], keep=names)
        arrays = [tensor.numpy() for tensor in found.outputs.values()]
        if key == "exposed":
            arrays += [found.integers[name].numpy() for name in names]
        for position, off in self.wrong.get(key, {}).items():
            arrays[position] = arrays[position] + np.asarray(off, dtype=arrays[position].dtype)
        return arrays

    def time(self, keys: Sequence[str], inputs: Sequence[np.ndarray], repeats: int = 20) -> dict[str, list[float]]:
        assert {len(array) for array in inputs} == {1}
        return {"int8": [0.001, 0.002, 0.003], "float": [0.002, 0.006, 0.003]}


@pytest.fixture
def program(compiled: tuple[Path, CompileReport]) -> Program:
    return compiled[1].results["onnx"].lowered.program


def run_check(
    monkeypatch: pytest.MonkeyPatch,
    program: Program,
    wrong: dict[str, dict[int, np.ndarray | float]],
    unfused: tuple[str, ...] = (),
) -> Checked:
    monkeypatch.setattr(check, "RemoteRuntime", lambda *given: SimulatedRuntime(program, wrong))
    patch_backend(monkeypatch, "onnx", "unfused", lambda program, path: unfused)
    reference = float_reference(capture(small_model(), (small_images(2),)), small_data(), Silent())
    return check_target(
        registry.get("onnx"),
        program,
        Artifacts(Path("int8"), Path("float"), Path("exposed")),
        (small_images(4),),
        small_data(),
        reference,
        parity_samples=5,
        timed_runs=3,
        threads=1,
        progress=Silent(),
    )


def failure(monkeypatch: pytest.MonkeyPatch, program: Program, wrong: dict, unfused: tuple[str, ...] = ()) -> str:
    with pytest.raises(VerificationError) as caught:
        run_check(monkeypatch, program, wrong, unfused)
    return str(caught.value)


def test_a_runtime_that_agrees(monkeypatch: pytest.MonkeyPatch, program: Program):
    checked = run_check(monkeypatch, program, {})
    assert [node.worst for node in checked.nodes] == [0] * 4
    assert (checked.end_to_end.worst_lsb, checked.end_to_end.samples) == (0, 5)
    assert checked.accuracy is not None
    assert checked.agreement is not None
    assert (checked.accuracy.total, checked.agreement.total) == (12, 12)
    assert list(checked.golden) == ["output"]


def test_latency_is_the_median_of_interleaved_pairs(monkeypatch: pytest.MonkeyPatch, program: Program):
    latency = run_check(monkeypatch, program, {}).latency
    assert latency is not None
    assert (latency.int8, latency.float, latency.ratio) == (0.002, 0.003, 2.0)


def test_a_node_that_is_off(monkeypatch: pytest.MonkeyPatch, program: Program):
    off = np.zeros((4, 3))
    off[1, 2] = 2
    name = list(program.integer_values())[-1]
    assert failure(monkeypatch, program, {"exposed": {4: off}}) == (
        f"onnx: 1 of 4 integer nodes differ from the simulator by more than allowed; worst 2 LSB (allowed 0) at "
        f"{name}, 1 of 12 integers; first {name}."
    )


def test_a_failure_on_another_instruction_set_says_so(
    monkeypatch: pytest.MonkeyPatch, compiled: tuple[Path, CompileReport]
):
    lowered = compiled[1].results["onnx"].lowered
    monkeypatch.setattr(check, "native_isa", lambda: "avx2")
    monkeypatch.setattr(check, "unproven_here", lambda program, proof, native: f"Not on {native}.")
    with pytest.raises(VerificationError, match=r"^onnx: 2 LSB\. Not on avx2\.$"), saturation_named(lowered):
        raise VerificationError("onnx: 2 LSB.")
    monkeypatch.setattr(check, "unproven_here", lambda program, proof, native: None)
    with pytest.raises(VerificationError, match=r"^onnx: 2 LSB\.$"), saturation_named(lowered):
        raise VerificationError("onnx: 2 LSB.")


def test_float_outputs_of_the_exposed_artifact_may_differ_by_rounding(
    monkeypatch: pytest.MonkeyPatch, program: Program
):
    rounding = {"exposed": {0: 1e-8}}
    assert "the artifact gives other outputs" in failure(monkeypatch, program, rounding)
    monkeypatch.setattr("fxedge.compiler.pipeline.check.output_qparams", lambda program: (None,))
    run_check(monkeypatch, program, rounding)


def test_integers_of_the_exposed_artifact_are_the_same_where_every_step_is_exact():
    qp = QParams((0.5,), (10,), 0, 255, torch.uint8)
    plain = np.array([1.0, 2.0], dtype=np.float32)
    assert check._same_integers(plain, plain, qp, exact=True)
    assert not check._same_integers(plain, plain + 0.5, qp, exact=True)
    assert check._same_integers(plain, plain + 1.0, qp, exact=False)
    assert not check._same_integers(plain, plain + 1.5, qp, exact=False)


def test_outputs_far_from_the_simulator_fail_whatever_the_steps_promise():
    with pytest.raises(VerificationError) as caught:
        check._require_end_to_end("onnx", EndToEnd(9, 1, 100, 0.3, 0, 10, exact=False, rms=0.26))
    assert str(caught.value) == (
        "onnx: the outputs are off the simulator's by 26% of their root mean square (at worst 9 LSB, or 0.3 of a "
        "float output's magnitude); 25% is the most that steps within their tolerance explain."
    )
    check._require_end_to_end("onnx", EndToEnd(90, 1, 100, 0.6, 0, 10, exact=False, rms=0.24))


def test_an_exposed_artifact_that_computes_otherwise(monkeypatch: pytest.MonkeyPatch, program: Program):
    assert failure(monkeypatch, program, {"exposed": {0: 1.0}}) == (
        "onnx: with its integers exposed, the artifact gives other outputs than without, "
        "so the node-by-node check would not speak of it."
    )


@pytest.mark.parametrize("found", [None, NodeParity("conv", 3, 1, 30, 100)])
def test_one_lsb_may_grow_where_hidden_integers_are_as_simulated(
    found: NodeParity | None, monkeypatch: pytest.MonkeyPatch, program: Program
):
    monkeypatch.setattr(check, "allowed_lsb", lambda program: {"conv": 1})
    monkeypatch.setattr(check, "off_when_hidden", lambda *given: found)
    wrong = {"exposed": {0: 0.1}}
    if found is None:
        run_check(monkeypatch, program, wrong)
        return
    assert failure(monkeypatch, program, wrong) == (
        "onnx: with its integers exposed, the artifact gives other outputs than without (30 of 100 integers of "
        "conv differ), so the node-by-node check would not speak of it."
    )


def test_a_path_that_promises_zero(monkeypatch: pytest.MonkeyPatch, program: Program):
    scale = list(program.integer_values().values())[-1].scale[0]
    wrong = {key: {0: 3 * scale} for key in ("int8", "exposed")}
    assert failure(monkeypatch, program, wrong) == (
        "onnx: every step promises 0 LSB, but the outputs differ by 3 LSB (15 of 15 integers)."
    )


def test_ops_that_run_in_float_after_all(monkeypatch: pytest.MonkeyPatch, program: Program):
    assert failure(monkeypatch, program, {}, ("conv2d", "linear")) == (
        "onnx: 2 op(s) planned as int8 run in float after the runtime's own optimizer: conv2d, linear."
    )


def test_labels_that_are_no_classes_give_no_accuracy():
    gm = capture(small_model(), (small_images(2),))
    targets = from_arrays(small_images(4), labels=torch.zeros(4, 3))
    reference = float_reference(gm, targets, Silent())
    assert reference is not None
    assert (len(reference.predicted), reference.labels, reference.accuracy) == (4, None, None)


def test_outputs_that_are_no_logits_have_no_reference():
    gm = capture(nn.Conv2d(1, 2, 3), (small_images(2),))
    assert float_reference(gm, small_data(), Silent()) is None
