"""Every op with an integer rule, under every engine: simulated integers against the artifact's, optimizer on."""

from __future__ import annotations

import math
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
from fxedge.backends.fbgemm import backend as fbgemm
from fxedge.backends.onednn import backend as onednn
from fxedge.backends.torchscript.backend import TorchScriptBackend
from fxedge.backends.x86 import backend as x86
from quantized_ops import OpCase, off_by, qint8, quint8
from torch import Tensor
from torch.nn import functional as F

aten = torch.ops.aten
ENGINES = pytest.mark.parametrize("backend", [fbgemm, x86, onednn], ids=lambda backend: backend.engine)


@ENGINES
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CONVS)
def test_conv_is_exact(name: str, kind: str, backend: TorchScriptBackend, tmp_path: Path) -> None:
    case = convolution(name, kind)
    assert not off_by(case, backend, tmp_path).any()


@ENGINES
@pytest.mark.parametrize("kernel", [3, 5])
def test_depthwise_conv_does_not_saturate_at_the_largest_integers(
    kernel: int, backend: TorchScriptBackend, tmp_path: Path
) -> None:
    x = torch.full((1, 144, 7, 7), 255, dtype=torch.int32)
    for value in (127, -127):
        weight = torch.full((144, 1, kernel, kernel), value, dtype=torch.int32)
        scale = 0.02 * 0.01 * 255 * 127 * kernel * kernel / 120
        args = ([1, 1], [kernel // 2] * 2, [1, 1], 144)
        qp = qint8(torch.full((144,), 0.01))
        case = OpCase(aten.conv2d.default, [x], [quint8(0.02, 0)], quint8(scale, 128), args, weight, qp)
        assert not off_by(case, backend, tmp_path).any()


@ENGINES
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_fused_activations_of_conv(name: str, backend: TorchScriptBackend, tmp_path: Path) -> None:
    args = ([1, 1], [1, 1], [1, 1], 1)

    def real(x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, None, *args)

    case = product(
        aten.conv2d.default, (1, 8, 7, 7), (8, 8, 3, 3), real, args, "random", 3, activation=ACTIVATIONS[name]
    )
    assert not off_by(case, backend, tmp_path).any()


@ENGINES
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(5, 64), (2, 3, 40), (1, 1280)])
@pytest.mark.parametrize("activation", [(), (aten.relu.default,)], ids=["plain", "relu"])
def test_linear_is_exact(
    activation: tuple[object, ...], shape: tuple[int, ...], kind: str, backend: TorchScriptBackend, tmp_path: Path
) -> None:
    weight = (33, shape[-1])
    case = product(aten.linear.default, shape, weight, F.linear, (), kind, shape[-1], activation=activation)
    assert not off_by(case, backend, tmp_path).any()


@ENGINES
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_conv_is_exact_or_has_no_rule(
    name: str, kind: str, backend: TorchScriptBackend, tmp_path: Path
) -> None:
    case = transposed(name, kind)
    anchor = next(node for node in case.graph().graph.nodes if node.target is aten.conv_transpose2d.input)
    reason = backend.spec.ops[aten.conv_transpose2d.input].check(anchor)
    assert reason == REASONS.get((backend.engine, name))
    if reason is None:
        assert not off_by(case, backend, tmp_path).any()


_WRONG = "torch's oneDNN kernel is wrong where a group's input and output channels differ"
REASONS = {
    ("x86", "other channels, stride 1"): _WRONG,
    ("onednn", "other channels"): _WRONG,
    ("onednn", "other channels, stride 1"): _WRONG,
    ("onednn", "other channels, dilated"): _WRONG,
    ("onednn", "two rows, more channels"): _WRONG,
    ("onednn", "output padding"): "oneDNN takes no output padding",
}


@ENGINES
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", [(), (aten.relu.default,)], ids=["plain", "relu"])
@pytest.mark.parametrize("op", [aten.add.Tensor, aten.mul.Tensor], ids=["add", "mul"])
def test_add_and_mul_are_exact_in_whole_vectors(
    op: torch._ops.OpOverload,
    activation: tuple[object, ...],
    kind: str,
    backend: TorchScriptBackend,
    tmp_path: Path,
) -> None:
    case = two_inputs(op, kind)
    case.activation = activation
    assert not off_by(case, backend, tmp_path).any()


@ENGINES
def test_mul_broadcasts_exactly(backend: TorchScriptBackend, tmp_path: Path) -> None:
    for kind in KINDS:
        case = two_inputs(aten.mul.Tensor, kind, (2, 16, 1, 1))
        assert not off_by(case, backend, tmp_path).any()


@ENGINES
def test_add_broadcasts_exactly(backend: TorchScriptBackend, tmp_path: Path) -> None:
    for kind in KINDS:
        case = two_inputs(aten.add.Tensor, kind, (2, 16, 1, 1))
        assert not off_by(case, backend, tmp_path).any()


def test_add_stays_within_its_tolerance_outside_whole_vectors(tmp_path: Path) -> None:
    for shape in ((1, 3, 7, 5), (2, 3, 9)):
        case = two_inputs(aten.add.Tensor, "ties", shape=shape)
        assert off_by(case, fbgemm, tmp_path).abs().max() <= fbgemm.spec.ops[aten.add.Tensor].tolerance == 1
        assert not off_by(two_inputs(aten.add.Tensor, "random", shape=shape), fbgemm, tmp_path).any()


UNARY = {
    "leaky_relu": (aten.leaky_relu.default, (0.1,), None),
    "hardswish": (aten.hardswish.default, (), None),
    "hardsigmoid": (aten.hardsigmoid.default, (), quint8(1 / 256, 0)),
    "sigmoid": (aten.sigmoid.default, (), quint8(1 / 256, 0)),
    "tanh": (aten.tanh.default, (), quint8(1 / 128, 128)),
}


@pytest.mark.parametrize("name", UNARY)
def test_elementwise_functions_are_exact_in_whole_vectors(name: str, tmp_path: Path) -> None:
    op, args, fixed = UNARY[name]
    x = torch.arange(256, dtype=torch.int32).reshape(2, 8, 4, 4)
    for index in range(4):
        in_qp = quint8(0.011 + 0.017 * index, 67 * index)
        out_qp = fixed or quint8(in_qp.scale[0] * (0.5, 1.3, 2, 3)[index], 31)
        assert not off_by(OpCase(op, [x], [in_qp], out_qp, args), fbgemm, tmp_path).any()


@pytest.mark.parametrize("name", UNARY)
def test_elementwise_functions_stay_within_their_tolerance_in_the_rest(name: str, tmp_path: Path) -> None:
    op, args, fixed = UNARY[name]
    x = torch.arange(240, dtype=torch.int32).reshape(1, 3, 16, 5)
    in_qp = quint8(0.04, 67)
    off = off_by(OpCase(op, [x], [in_qp], fixed or quint8(0.08, 31), args), fbgemm, tmp_path)
    assert off.abs().max() <= fbgemm.spec.ops[op].tolerance == 1


@pytest.mark.parametrize("name", MOVES)
def test_pools_and_moves_are_exact(name: str, tmp_path: Path) -> None:
    op, args = MOVES[name]
    assert not off_by(pooled(op, args), fbgemm, tmp_path).any()


@ENGINES
@pytest.mark.parametrize("sides", ["max", "min", "both"])
@pytest.mark.parametrize("name", BOUNDED)
def test_bounds_by_channel_are_exact(name: str, sides: str, backend: TorchScriptBackend, tmp_path: Path) -> None:
    case = bounded(name, sides)
    assert not off_by(case, backend, tmp_path).any()


@pytest.mark.parametrize("channels", [1, 3, 8, 16, 24, 33, 64, 70])
@pytest.mark.parametrize(
    "name", ["avg_pool2d", "avg_pool2d without padding", "adaptive 1", "adaptive 3x2", "mean"]
)
def test_average_pools_are_exact_for_any_channel_count(name: str, channels: int, tmp_path: Path) -> None:
    op, args = MOVES[name]
    assert not off_by(pooled(op, args, channels), fbgemm, tmp_path).any()


def image_mean(size: tuple[int, int], channels: int, kept: bool, pattern: str) -> OpCase:
    """To a scale much finer than the input's."""
    x = integers((2, channels, *size), 0, 255, channels, pattern)
    return OpCase(aten.mean.dim, [x], [quint8(0.0371, 113)], quint8(0.00413, 101), ([2, 3], kept))


@ENGINES
@pytest.mark.parametrize("channels", [1, 8, 33, 64])
@pytest.mark.parametrize("size", [(1, 1), (7, 7), (13, 5), (56, 56)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_means_over_an_image_have_a_scale_of_their_own(
    size: tuple[int, int], channels: int, backend: TorchScriptBackend, tmp_path: Path
) -> None:
    for kept in (True, False):
        case = image_mean(size, channels, kept, "random")
        assert not off_by(case, backend, tmp_path).any()


def test_a_mean_adds_one_position_after_the_other() -> None:
    """What makes it the same on every CPU: no vector's width shows in the sum."""
    x = (integers((2, 33, 13, 5), 0, 255, 3, "random") - 113).float() * 0.0371
    total = torch.zeros(2, 33)
    for position in range(13 * 5):
        total += x.flatten(2)[..., position]
    pooled = aten.avg_pool2d(x.contiguous(memory_format=torch.channels_last), [13, 5])
    assert torch.equal(pooled.flatten(1), total / (13 * 5))


def test_max_pool1d_is_exact(tmp_path: Path) -> None:
    qp = quint8(0.0371, 113)
    x = integers((2, 8, 17), 0, 255, 5, "random")
    case = OpCase(aten.max_pool1d.default, [x], [qp], qp, ([3], [2], [1]))
    assert not off_by(case, fbgemm, tmp_path).any()


def test_cat_of_equal_parameters_is_exact(tmp_path: Path) -> None:
    qp = quint8(0.0371, 113)
    x, y = (integers((2, channels, 7, 6), 0, 255, channels, "random") for channels in (5, 24))
    assert not off_by(OpCase(aten.cat.default, [x, y], [qp, qp], qp, (1,), listed=True), fbgemm, tmp_path).any()


@pytest.mark.parametrize(
    ("op", "args", "piece"),
    [
        (aten.chunk.default, (3, 1), 1),
        (aten.split.Tensor, (16, 1), 2),
        (aten.split_with_sizes.default, ([10, 30], 1), 1),
    ],
    ids=["chunk", "split", "split_with_sizes"],
)
def test_pieces_of_a_split_are_exact(
    op: torch._ops.OpOverload, args: tuple[object, ...], piece: int, tmp_path: Path
) -> None:
    case = pooled(op, args)
    case.piece = piece
    assert not off_by(case, fbgemm, tmp_path).any()


def test_every_rule_has_a_case() -> None:
    tested = {op for op, *_ in (*CONVS.values(), *UNARY.values(), *MOVES.values())}
    tested |= {aten.conv_transpose2d.input, aten.linear.default, aten.add.Tensor, aten.mul.Tensor}
    tested |= {aten.cat.default, aten.max_pool1d.default, aten.chunk.default, aten.split.Tensor}
    tested |= {aten.split_with_sizes.default}
    untested = {aten.conv_transpose1d.default, aten.conv_transpose3d.input, aten.squeeze.dim, aten.squeeze.dims}
    assert set(fbgemm.spec.ops) == tested | untested
    assert set(x86.spec.ops) == set(onednn.spec.ops) == set(fbgemm.spec.ops)


def test_ties_case_holds_ties() -> None:
    case = two_inputs(aten.add.Tensor, "ties")
    a, b = (x - qp.zero_point[0] for x, qp in zip(case.inputs, case.in_qparams, strict=True))
    quarters = (a * 0.02 + b * 0.04) / 0.08
    assert ((quarters - quarters.floor() - 0.5).abs() < 1e-4).sum() > 100
    assert math.isclose(case.out_qparams.scale[0], 0.08, rel_tol=1e-6)
