from pathlib import Path

import numpy as np
import pytest
import torch
from fxedge.compiler.pipeline.driver import CompileReport
from fxedge.compiler.pipeline.parity import (
    EndToEndCount,
    allowed_lsb,
    as_integers,
    compare_nodes,
    output_qparams,
    relative_difference,
)
from fxedge.compiler.quant.program import Program
from fxedge.compiler.quant.qparams import QParams
from fxedge.compiler.quant.simulate import simulate
from small_compile import small_images


@pytest.fixture
def program(compiled: tuple[Path, CompileReport]) -> Program:
    return compiled[1].results["onnx"].lowered.program


def integers(program: Program) -> dict[str, np.ndarray]:
    names = list(program.integer_values())
    found = simulate(program, (small_images(2),), keep=names).integers
    return {name: found[name].numpy() for name in names}


def outputs(program: Program) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in simulate(program, (small_images(2),)).outputs.values()]


def test_exact_kernels_are_allowed_nothing(program: Program):
    assert set(allowed_lsb(program).values()) == {0}


def test_a_runtime_that_agrees(program: Program):
    nodes = compare_nodes(program, (small_images(2),), integers(program))
    assert [node.worst for node in nodes] == [0] * len(nodes)
    assert nodes[0].total == 2 * 36


def test_only_the_node_that_is_off_is_named(program: Program):
    """The nodes after it are fed the runtime's own integers, so its error does not spread."""
    deployed = integers(program)
    wrong = list(deployed)[1]
    deployed[wrong] = deployed[wrong].copy()
    deployed[wrong][0, 0, 0, :2] += 3
    nodes = compare_nodes(program, (small_images(2),), deployed)
    assert {node.name: (node.worst, node.differing) for node in nodes if node.worst and node.name == wrong} == {
        wrong: (3, 2)
    }
    assert nodes[0].worst == 0


def test_another_shape_is_as_wrong_as_can_be(program: Program):
    deployed = integers(program)
    last = list(deployed)[-1]
    deployed[last] = deployed[last][:1]
    node = compare_nodes(program, (small_images(2),), deployed)[-1]
    assert (node.worst > 0, node.differing, node.total) == (True, 3, 3)


def test_integers_behind_an_output():
    qp = QParams((0.1,), (3,), 0, 255, torch.uint8)
    values = np.array([0, 5, 255])
    floats = ((values - 3) * np.float32(0.1)).astype(np.float32)
    assert as_integers(floats, qp).tolist() == [0, 5, 255]
    assert as_integers(values.astype(np.uint8), qp).tolist() == [0, 5, 255]


def test_end_to_end_counts(program: Program):
    (simulated,), (qp,) = outputs(program), output_qparams(program)
    assert qp is not None
    deployed = simulated.copy()
    worst = simulated[0].argmax()
    deployed[0, worst] -= np.float32(200) * np.float32(qp.scale[0])
    count = EndToEndCount(program)
    count.add([deployed], [simulated])
    count.add([simulated], [simulated])
    found = count.result()
    assert (found.worst_lsb, found.differing, found.total) == (200, 1, 12)
    assert (found.flips, found.samples, found.exact) == (1, 4, True)


def test_float_outputs_are_measured_by_their_magnitude(program: Program, monkeypatch: pytest.MonkeyPatch):
    count = EndToEndCount(program)
    monkeypatch.setattr(count, "_qparams", (None,))
    count.add([np.array([[1.0, 4.0]])], [np.array([[1.0, 5.0]])])
    found = count.result()
    assert (found.worst_float, found.total, found.flips) == (0.2, 0, 0)
    assert found.rms == pytest.approx(26**-0.5)
    count.add([np.array([[np.inf, 1.0]])], [np.array([[np.inf, 1.0]])])
    assert count.result().rms == pytest.approx(27**-0.5)


@pytest.mark.parametrize(
    ("actual", "expected", "difference"),
    [
        ([1.0, np.inf, np.nan], [1.0, np.inf, np.nan], 0.0),
        ([1.0, np.nan], [1.0, 2.0], np.inf),
        ([1.0, np.inf], [1.0, -np.inf], np.inf),
        ([True, False], [True, True], 1.0),
        ([1.0], [1.0, 1.0], np.inf),
        ([], [], 0.0),
    ],
)
def test_relative_difference_of_unusual_values(actual: list, expected: list, difference: float):
    assert relative_difference(np.array(actual), np.array(expected)) == difference
