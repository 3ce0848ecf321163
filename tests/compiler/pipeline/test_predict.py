"""Predictions from tables with round figures."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from fxedge.backends import registry
from fxedge.compiler.ir.errors import UnsupportedOpsError
from fxedge.compiler.pipeline.kernel_costs import Form, KernelCosts, KernelPoint, TargetTable
from fxedge.compiler.pipeline.lower import FloatModel, prepare
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.pipeline.predict import Contribution, Prediction, Speed, predict
from torch import Tensor, nn

OPTIONS = CompileOptions()
PER_WORK: Mapping[Form, float] = {"float": 4e-9, "int8": 1e-9}


def _costs(kind: str, form: Form, each: float, rest: float | None = None) -> KernelCosts:
    unit = "macs" if kind.startswith(("conv", "linear")) else "elements"
    points = [
        KernelPoint(work=work, elements=work, seconds=each * work, low=None, high=None, rest=rest)
        for work in (10, 10_000)
    ]
    return KernelCosts(kind=kind, form=form, unit=unit, points=tuple(points))  # type: ignore[arg-type]


def table(*kinds: str, per_work: Mapping[Form, float] = PER_WORK, rest: float | None = None) -> TargetTable:
    kernels = [_costs(kind, form, each, rest) for kind in kinds for form, each in per_work.items()]
    return TargetTable(target="onnx", threads=1, versions={}, kernels=tuple(kernels))


class Broken(nn.Module):
    """An op that no int8 kernel takes lies between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cumsum(self.first(x), 1))


def _prepared(model: nn.Module) -> FloatModel:
    torch.manual_seed(0)
    return prepare(model.eval(), (torch.randn(2, 3, 8, 8),), OPTIONS)


def _speed(found: Prediction) -> Speed:
    assert found.speed is not None
    return found.speed


def test_ops_reasons_and_conversions() -> None:
    found = predict(_prepared(Broken()), registry.get("onnx"), OPTIONS, None, "no table")
    assert (found.integers, found.conversions, found.speed, found.no_speed) == (2, 2, None, "no table")
    assert [(skip.node, skip.reason) for skip in found.floats] == [
        ("cumsum", "onnx has no integer kernel for cumsum.default")
    ]


def test_costs_add_up() -> None:
    known = table("conv3x3", "conv1x1", "mul")
    speed = _speed(predict(_prepared(Broken()), registry.get("onnx"), OPTIONS, known))
    dense, point, other = 64 * 4 * 27, 64 * 2 * 4, 64 * 4
    assert speed.float_seconds == pytest.approx(4e-9 * (dense + point + other))
    assert speed.int8_seconds == pytest.approx(1e-9 * (dense + point) + 4e-9 * other)
    assert (speed.verdict, speed.unknown) == ("faster", ())
    assert speed.parts[0] == Contribution("conv3x3", 1, pytest.approx(1e-9 * dense), pytest.approx(4e-9 * dense))


def test_conversions_can_cost_more_than_kernels_gain() -> None:
    rests = {"float": 0.0, "int8": 1e-3}
    kernels = [
        _costs(kind, form, PER_WORK[form], rests[form])
        for kind in ("conv3x3", "conv1x1", "mul")
        for form in PER_WORK
    ]
    slow = TargetTable(target="onnx", threads=1, versions={}, kernels=tuple(kernels))
    speed = _speed(predict(_prepared(Broken()), registry.get("onnx"), OPTIONS, slow))
    assert speed.verdict == "slower"
    assert {part.kind for part in speed.losses()} == {"call", "conversions"}


def test_kernels_without_a_figure_are_named() -> None:
    speed = _speed(predict(_prepared(Broken()), registry.get("onnx"), OPTIONS, table("conv3x3")))
    assert speed.unknown == ("conv1x1", "mul")
    assert [part.kind for part in speed.parts if part.count and part.float_seconds] == ["conv3x3"]


def test_what_cannot_be_emitted_is_told() -> None:
    class Special(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.i0(x)

    with pytest.raises(UnsupportedOpsError):
        predict(_prepared(Special()), registry.get("onnx"), OPTIONS, None)


def test_a_table_without_figures_of_the_nets_kernels() -> None:
    found = predict(_prepared(Broken()), registry.get("onnx"), OPTIONS, table("softmax"))
    assert (found.speed, found.no_speed) == (
        None,
        "the kernel costs of this machine have no figure of any of its kernels",
    )


def test_a_batch_of_fixed_size_stays_whole() -> None:
    options = CompileOptions(dynamic_axes=())
    model = prepare(Broken().eval(), (torch.randn(4, 3, 8, 8),), options)
    speed = _speed(predict(model, registry.get("onnx"), options, table("conv3x3")))
    assert speed.float_seconds == pytest.approx(4 * 4e-9 * 64 * 4 * 27)
