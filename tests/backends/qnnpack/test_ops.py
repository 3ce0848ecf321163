"""Every op with an integer rule under qnnpack: simulated integers against the lite interpreter's, 0 LSB, whether
the input lies in memory channels first or channels last."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from engine_cases import (
    ACTIVATIONS,
    BOUNDED,
    CONVS,
    KINDS,
    MOVES,
    TRANSPOSED,
    bounded,
    convolution,
    integers,
    pooled,
    product,
    transposed,
    two_inputs,
)
from fxedge.backends.qnnpack import backend
from fxedge.backends.torchscript.deprecated import load_lite
from fxedge.compiler.quant.program import build_program
from fxedge.compiler.quant.qparams import QParams
from fxedge.compiler.quant.simulate import simulate
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized_ops import OpCase, integer_steps, qint8, quint8
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn import functional as F

aten = torch.ops.aten
RUNS_IN_PLANES = {name for name, (op, *_) in CONVS.items() if op is not aten.conv3d.default}
ANYTHING = settings(max_examples=15, deadline=None, derandomize=True)
SCALES = st.floats(1e-4, 0.2)
ZERO_POINTS = st.integers(0, 255)
UNKNOWN = "its windows depend on sizes that are not known"


def off_by(case: OpCase, folder: Path) -> Tensor:
    """Simulated minus deployed integers, from inputs in both layouts."""
    program = build_program(case.graph(), backend.spec)
    (step,) = integer_steps(program)
    path = folder / backend.artifact
    backend.emit(program, path, [step.name])
    backend.load(path)  # sets the engine
    module, simulated = load_lite(path), simulate(program, case.floats(), keep=[step.name]).integers[step.name]
    differences = []
    for layout in (torch.contiguous_format, torch.channels_last):
        inputs = [x.contiguous(memory_format=layout) if x.ndim == 4 else x for x in case.floats()]
        deployed = module(*inputs)[-1]
        assert deployed.shape == simulated.shape
        differences.append(simulated - deployed.to(torch.int32))
    return torch.stack(differences)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(RUNS_IN_PLANES))
def test_conv_is_exact(name: str, kind: str, tmp_path: Path) -> None:
    assert not off_by(convolution(name, kind), tmp_path).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_conv_is_exact(name: str, kind: str, tmp_path: Path) -> None:
    assert not off_by(transposed(name, kind), tmp_path).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(5, 64), (2, 3, 40), (1, 1280)])
def test_linear_is_exact(shape: tuple[int, ...], kind: str, tmp_path: Path) -> None:
    case = product(aten.linear.default, shape, (33, shape[-1]), F.linear, (), kind, shape[-1])
    assert not off_by(case, tmp_path).any()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_fused_activations_of_conv(name: str, tmp_path: Path) -> None:
    args = ([1, 1], [1, 1], [1, 1], 1)

    def real(x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, None, *args)

    shapes = (1, 8, 7, 7), (8, 8, 3, 3)
    case = product(aten.conv2d.default, *shapes, real, args, "random", 3, activation=ACTIVATIONS[name])
    assert not off_by(case, tmp_path).any()


def test_relu_that_leaves_one_integer(tmp_path: Path) -> None:
    for op in (aten.add.Tensor, aten.mul.Tensor):
        case = two_inputs(op, "random")
        case.activation, case.out_qparams = (aten.relu.default,), quint8(0.05, 255)
        assert not off_by(case, tmp_path).any()


@pytest.mark.parametrize("reach", [100, 10**5, 10**7])
@pytest.mark.parametrize("per_channel", [True, False])
def test_float_bias_becomes_the_same_integers(reach: int, per_channel: bool, tmp_path: Path) -> None:
    """Biases next to halves. The weights bring the sum back to where the output shows single units."""
    generator = torch.Generator().manual_seed(reach)
    count, in_scale = 64, 0.0231
    scales = torch.rand(count if per_channel else 1, generator=generator) * 0.01 + 0.001
    wanted = torch.randint(-reach, reach + 1, (count,), generator=generator)
    bias = ((wanted + 0.5).double() * in_scale * scales.double()).float()
    weight = torch.zeros(count, reach // (255 * 127) + 3, dtype=torch.int32)
    left = torch.div(-wanted + 127, 255, rounding_mode="floor")
    weight[:, -1] = -wanted - 255 * left
    for column in range(weight.shape[1] - 1):
        weight[:, column] = left.clamp(-127, 127)
        left = left - weight[:, column]
    x = torch.full((1, weight.shape[1]), 255, dtype=torch.int32)
    x[0, -1] = 1
    qp = qint8(scales, 0 if per_channel else None)
    out = quint8(in_scale * float(scales.min()), 128)
    case = OpCase(aten.linear.default, [x], [quint8(in_scale, 0)], out, (), weight, qp, bias)
    assert not off_by(case, tmp_path).any()


@ANYTHING
@given(st.lists(SCALES, min_size=3, max_size=3), st.lists(ZERO_POINTS, min_size=3, max_size=3), st.booleans())
def test_add_is_exact(
    tmp_path_factory: pytest.TempPathFactory, scales: list[float], zeros: list[int], relu: bool
) -> None:
    a, b = (integers((2, 3, 7, 5), 0, 255, seed, "random") for seed in (1, 2))
    qparams = [quint8(scale, zero) for scale, zero in zip(scales, zeros, strict=True)]
    case = OpCase(aten.add.Tensor, [a, b], qparams[:2], qparams[2])
    case.activation = (aten.relu.default,) if relu else ()
    if integer_steps(build_program(case.graph(), backend.spec)):
        assert not off_by(case, tmp_path_factory.mktemp("add")).any()
    else:
        assert not all(2**-14 <= scale / scales[2] < 2**8 for scale in scales[:2])


@pytest.mark.parametrize("other", [(2, 16, 1, 1), (1, 16, 8, 8), (16, 1, 1), (8,), (2, 1, 8, 1)])
@pytest.mark.parametrize("op", [aten.add.Tensor, aten.mul.Tensor], ids=["add", "mul"])
def test_add_and_mul_broadcast_exactly(op: torch._ops.OpOverload, other: tuple[int, ...], tmp_path: Path) -> None:
    for kind in KINDS:
        assert not off_by(two_inputs(op, kind, other), tmp_path).any()
        case = two_inputs(op, kind, other)
        case.inputs, case.in_qparams = case.inputs[::-1], case.in_qparams[::-1]
        assert not off_by(case, tmp_path).any()


@pytest.mark.parametrize("ratio", [2.0**-14, 2.0**8 * 0.999])
def test_add_takes_scales_up_to_its_limits(ratio: float, tmp_path: Path) -> None:
    case = two_inputs(aten.add.Tensor, "random")
    case.in_qparams, case.out_qparams = [quint8(ratio, 3), quint8(1.0, 100)], quint8(1.0, 9)
    assert not off_by(case, tmp_path).any()


@pytest.mark.parametrize("ratio", [2.0**-14 * 0.999, 2.0**8])
def test_add_of_scales_too_far_apart_runs_in_float(ratio: float, tmp_path: Path) -> None:
    case = two_inputs(aten.add.Tensor, "random")
    case.in_qparams, case.out_qparams = [quint8(ratio, 3), quint8(1.0, 100)], quint8(1.0, 9)
    program = build_program(case.graph(), backend.spec)
    assert integer_steps(program) == []
    path = tmp_path / backend.artifact
    backend.emit(program, path)
    (deployed,) = backend.load(path).run([x.numpy() for x in case.floats()])
    (simulated,) = simulate(program, case.floats()).outputs.values()
    torch.testing.assert_close(torch.from_numpy(deployed), simulated, rtol=0, atol=1.0)


FUNCTIONS = {
    "leaky_relu": (aten.leaky_relu.default, (0.1,), None),
    "leaky_relu, little slope": (aten.leaky_relu.default, (0.01,), None),
    "hardswish": (aten.hardswish.default, (), None),
    "hardsigmoid": (aten.hardsigmoid.default, (), quint8(1 / 256, 0)),
    "sigmoid": (aten.sigmoid.default, (), quint8(1 / 256, 0)),
    "tanh": (aten.tanh.default, (), quint8(1 / 128, 128)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@ANYTHING
@given(SCALES, ZERO_POINTS, st.one_of(SCALES, st.integers(1, 6)), ZERO_POINTS)
def test_functions_are_exact(
    tmp_path_factory: pytest.TempPathFactory, name: str, scale: float, zero: int, out: float, out_zero: int
) -> None:
    """An integer `out` is a multiple of the input's scale: ties."""
    op, args, fixed = FUNCTIONS[name]
    out_qp = fixed or quint8(out * scale if isinstance(out, int) else out, out_zero)
    x = torch.arange(256, dtype=torch.int32).reshape(1, 4, 8, 8)
    case = OpCase(op, [x], [quint8(scale, zero)], out_qp, args)
    if integer_steps(build_program(case.graph(), backend.spec)):
        assert not off_by(case, tmp_path_factory.mktemp("function")).any()
    else:
        assert op is aten.leaky_relu.default
        assert not all(2**-14 <= scale * slope / out_qp.scale[0] < 2**8 for slope in (1, *args))


def test_leaky_relu_that_falls_has_no_rule() -> None:
    case = OpCase(
        aten.leaky_relu.default, [integers((4,), 0, 255, 1, "random")], [quint8(0.1, 9)], quint8(0.1, 9), (-0.1,)
    )
    assert reason(case) == "its slope is not positive"


def reason(case: OpCase) -> str | None:
    anchor = next(node for node in case.graph().graph.nodes if node.target is case.op)
    return backend.spec.ops[case.op].check(anchor)


@pytest.mark.parametrize("name", MOVES)
def test_pools_and_moves_are_exact(name: str, tmp_path: Path) -> None:
    for channels in (40, 33) if "pool" in name or "mean" in name else (40,):
        assert not off_by(pooled(*MOVES[name], channels), tmp_path).any()


def pool(op: torch._ops.OpOverload, args: tuple[object, ...], size: tuple[int, int], qp: QParams) -> OpCase:
    return OpCase(op, [integers((2, 5, *size), 0, 255, 5, "random")], [qp], qp, args)


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("ceil", [True, False])
def test_average_pools_are_exact_at_the_borders(ceil: bool, counted: bool, tmp_path: Path) -> None:
    windows = [([1, 1], [2, 2], [0, 0]), ([2, 2], [2, 2], [1, 1]), ([3, 3], [1, 1], [1, 1])]
    windows += [([3, 2], [2, 1], [1, 0]), ([3, 3], [2, 2], [1, 1]), ([2, 2], [3, 3], [0, 0])]
    for index, (window, size) in enumerate(itertools.product(windows, [(7, 6), (5, 9)])):
        qp = quint8(0.0371, (0, 113, 255)[index % 3])
        case = pool(aten.avg_pool2d.default, (*window, ceil, counted), size, qp)
        assert not off_by(case, tmp_path).any(), (window, size)


@pytest.mark.parametrize("output", [[1, 1], [2, 2], [3, 2], [7, 6], [1, 6], [4, 4]])
@pytest.mark.parametrize("size", [(7, 6), (8, 8), (13, 13)])
def test_adaptive_pools_are_exact(output: list[int], size: tuple[int, int], tmp_path: Path) -> None:
    case = pool(aten.adaptive_avg_pool2d.default, (output,), size, quint8(0.0371, 113))
    assert not off_by(case, tmp_path).any()


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (13, 5)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_means_over_an_image_have_a_scale_of_their_own(size: tuple[int, int], tmp_path: Path) -> None:
    case = pool(aten.mean.dim, ([2, 3],), size, quint8(0.0371, 113))
    assert not off_by(case, tmp_path).any()
    case.out_qparams = quint8(0.00413, 101)
    assert not off_by(case, tmp_path).any()


def test_average_pool_of_too_many_kinds_of_windows_has_no_rule() -> None:
    case = pool(aten.adaptive_avg_pool2d.default, ([9, 9],), (13, 13), quint8(0.1, 9))
    assert reason(case) == "its windows differ so much that it would take 49 pools"
    case = pool(aten.avg_pool2d.default, ([9, 9], [1, 1], [4, 4], False, False), (13, 13), quint8(0.1, 9))
    assert reason(case) == "its windows differ so much that it would take 81 pools"
    case = pool(aten.avg_pool2d.default, ([9, 9], [1, 1], [4, 4], False, True, 7), (13, 13), quint8(0.1, 9))
    assert reason(case) == "divisor_override is set"


@pytest.mark.parametrize(
    ("op", "args", "expected"),
    [
        (aten.avg_pool2d.default, ([3, 3], [2, 2], [1, 1]), None),
        (aten.adaptive_avg_pool2d.default, ([1, 1],), None),
        (aten.avg_pool2d.default, ([3, 3], [2, 2], [1, 1], False, False), UNKNOWN),
        (aten.adaptive_avg_pool2d.default, ([2, 2],), UNKNOWN),
    ],
)
def test_average_pools_over_unknown_sizes(
    op: torch._ops.OpOverload, args: tuple[object, ...], expected: str | None
) -> None:
    gm = pool(op, args, (8, 8), quint8(0.1, 9)).graph()
    anchor = next(node for node in gm.graph.nodes if node.target is op)
    value = next(node for node in gm.graph.nodes if node.op == "placeholder")
    value.meta["val"] = FakeTensorMode(shape_env=ShapeEnv()).from_tensor(torch.empty(2, 5, 8, 8))
    assert backend.spec.ops[op].check(anchor) == expected


@pytest.mark.parametrize("sides", ["max", "min", "both"])
@pytest.mark.parametrize("name", BOUNDED)
def test_bounds_by_channel_are_exact(name: str, sides: str, tmp_path: Path) -> None:
    assert not off_by(bounded(name, sides), tmp_path).any()


@pytest.mark.parametrize("shape", [(2, 5, 4, 6), (3, 7), (2, 3, 8), (2, 3, 4, 2, 2)])
@pytest.mark.parametrize("bounds", [(-0.4, 1.1), (None, 0.7), (-0.3, None), (5.0, 5.0), (-1e9, 1e9)])
def test_clamps_are_exact_for_any_rank(
    bounds: tuple[float | None, float | None], shape: tuple[int, ...], tmp_path: Path
) -> None:
    qp = quint8(0.0371, 113)
    case = OpCase(aten.clamp.default, [integers(shape, 0, 255, 5, "random")], [qp], qp, bounds)
    assert not off_by(case, tmp_path).any()


def test_cat_of_equal_parameters_is_exact(tmp_path: Path) -> None:
    qp = quint8(0.0371, 113)
    x, y = (integers((2, channels, 7, 6), 0, 255, channels, "random") for channels in (5, 24))
    assert not off_by(OpCase(aten.cat.default, [x, y], [qp, qp], qp, (1,), listed=True), tmp_path).any()


def test_max_pool1d_is_exact(tmp_path: Path) -> None:
    qp = quint8(0.0371, 113)
    case = OpCase(aten.max_pool1d.default, [integers((2, 8, 17), 0, 255, 5, "random")], [qp], qp, ([3], [2], [1]))
    assert not off_by(case, tmp_path).any()


def test_every_rule_is_exact_and_3d_convolutions_have_none() -> None:
    assert {rule.tolerance for rule in backend.spec.ops.values()} == {0}
    assert aten.conv3d.default not in backend.spec.ops
    assert aten.conv_transpose3d.input not in backend.spec.ops
