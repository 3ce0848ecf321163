"""The `executorch` backend on whole graphs: batches that grow, what is in no delegate, what cannot be had."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from differential import check_everywhere
from fxedge.backends.base import Describes
from fxedge.backends.executorch import backend
from fxedge.backends.executorch.lower import LONGEST, MOST_SAMPLES
from fxedge.compiler.ir.errors import UnsupportedOpsError
from fxedge.compiler.pipeline.calibration import collect
from fxedge.compiler.pipeline.lower import lower, plan_targets, prepare
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.quant.collectors import CollectorMethod
from fxedge.compiler.quant.program import Program
from fxedge.compiler.quant.simulate import simulate
from torch import Tensor, nn

installed = pytest.mark.skipif(backend.missing() is not None, reason=str(backend.missing()))
OPTIONS = CompileOptions(recipe="fast", calibration=CollectorMethod.parse("minmax"))


class Net(nn.Module):
    """A pool without an integer kernel and an op without an XNNPACK one stand between integer ops."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.interpolate(self.first(x).relu(), scale_factor=2.0, mode="nearest")
        return self.last((self.second(y) + y).mean((2, 3)))


def compiled(model: nn.Module, x: Tensor) -> Program:
    torch.manual_seed(0)
    prepared = prepare(model.eval(), (x,), OPTIONS)
    plan = plan_targets(prepared, [backend.spec], OPTIONS)
    stats = collect(prepared, plan, [(x,)], OPTIONS)
    return lower(prepared, backend.spec, plan["executorch"], stats, OPTIONS).program


@installed
def test_batches_may_grow_and_exceed_what_one_run_takes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(2 * MOST_SAMPLES + 3, 3, 6, 6)
    program, path = compiled(Net(), x[:4]), tmp_path / "model.pte"
    backend.emit(program, path)
    runner = backend.load(path)
    for count in (2, MOST_SAMPLES, 1, len(x)):
        (found,) = runner.run([x[:count].numpy()])
        (wanted,) = simulate(program, [x[:count]]).outputs.values()
        np.testing.assert_array_equal(found, wanted.numpy())
    assert isinstance(backend, Describes)
    assert backend.unfused(program, path) == ()
    delegates, portable = backend.notes(path)
    assert delegates == "2 XNNPACK delegates; 1 op(s) between or beside them in portable kernels"
    assert portable.startswith("portable aten_upsample_nearest2d_vec (upsample_nearest2d.vec): ")
    assert portable.endswith("XNNPACK has no such op")


class Turned(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * x).permute(1, 0)


@installed
def test_outputs_of_several_runs_are_joined_along_the_batch_only(tmp_path: Path) -> None:
    x = torch.randn(MOST_SAMPLES + 1, 3)
    path = tmp_path / "float.pte"
    backend.emit_float(prepare(Turned(), (x[:2],), OPTIONS).gm, path)
    with pytest.raises(ValueError, match="first axis is not the batch") as caught:
        backend.load(path).run([x.numpy()])
    assert str(caught.value) == (
        "this program takes at most 8 samples at a time, and its outputs of several runs cannot be joined: one "
        "has shape [3, 8], whose first axis is not the batch"
    )


class Tokens(nn.Module):
    """Of any number: XNNPACK's reshapes, which a convolution over one axis needs too, take one symbolic size."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv1d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.line(x.transpose(1, 2)).transpose(1, 2) + x.sum(2)[:, :, None]


@installed
def test_an_axis_longer_than_the_program_takes(tmp_path: Path) -> None:
    path, x, model = tmp_path / "float.pte", torch.randn(2, LONGEST + 1, 3), Tokens().eval()
    options = dataclasses.replace(OPTIONS, dynamic_axes=(0, 1))
    backend.emit_float(prepare(model, (x[:, :7],), options).gm, path)
    runner = backend.load(path)
    (found,) = runner.run([x[:, :LONGEST].numpy()])
    with torch.no_grad():
        np.testing.assert_allclose(found, model(x[:, :LONGEST]).numpy(), atol=1e-5)
    with pytest.raises(ValueError, match="at most 512 on axis 1") as caught:
        runner.run([x.numpy()])
    assert str(caught.value) == (
        "input 0 has shape [2, 513, 3]; this program takes at most 512 on axis 1: ExecuTorch plans the memory of "
        "a program for the largest sizes that it will see"
    )


class Awkward(nn.Module):
    """Ops that ExecuTorch's passes fail on, or that have no kernel, in the form that they are written in."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.line = nn.ConvTranspose1d(4, 4, 3, stride=2)
        self.volume = nn.Conv3d(2, 3, (2, 3, 3), stride=(2, 1, 1), padding=(1, 0, 1), dilation=(2, 1, 1))
        self.slope = nn.PReLU(4)

    def forward(self, x: Tensor, volume: Tensor) -> tuple[Tensor, ...]:
        pooled = nn.functional.max_pool3d(volume, (3, 2, 2), (2, 1, 2), (1, 0, 1), ceil_mode=True)
        line = self.line(self.first(x))
        turned = x.view(-1, 2, 2, 6).transpose(1, 2).reshape(-1, 4, 6)
        return line, self.slope(x), x.max(1).values, turned + self.first(x), self.volume(volume), pooled


@installed
def test_ops_in_forms_that_executorch_takes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    batches = [(torch.randn(n, 4, 6), torch.randn(n, 2, 5, 6, 7)) for n in (2, 5)]
    assert check_everywhere(Awkward(), batches, tmp_path, ["executorch"])["executorch"] < 0.1


class Special(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.i0(x) + torch.special.digamma(x)


@installed
def test_ops_that_no_kernel_takes_are_refused_at_once(tmp_path: Path) -> None:
    x = torch.rand(2, 3) + 1
    with pytest.raises(UnsupportedOpsError) as caught:
        backend.emit_float(prepare(Special(), (x,), OPTIONS).gm, tmp_path / "float.pte")
    assert [op for _, op, _ in caught.value.reasons] == ["i0.default", "digamma.default"]
    assert {reason for *_, reason in caught.value.reasons} == {"neither XNNPACK nor a portable kernel takes it"}


class Padded(nn.Module):
    """Pads with a number that only the padding has, so that the integers before and behind differ in scale."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(nn.functional.pad(self.first(x).relu(), (0, 1, 0, 1), value=9.0))


@installed
def test_a_pad_between_integers_of_unlike_parameters(tmp_path: Path) -> None:
    """ExecuTorch's partitioner would take it for a pad of integers, which XNNPACK refuses when it loads."""
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    options = CompileOptions(CollectorMethod("minmax"), recipe="fast")
    model = prepare(Padded().eval(), (x,), options)
    plans = plan_targets(model, [backend.spec], options)
    stats = collect(model, plans, [(x,)], options)
    program = lower(model, backend.spec, plans["executorch"], stats, options).program
    backend.emit(program, tmp_path / "model.pte")
    (found,) = backend.load(tmp_path / "model.pte").run([x.numpy()])
    (simulated,) = simulate(program, (x,)).outputs.values()
    np.testing.assert_allclose(found, simulated.numpy(), rtol=0, atol=1e-6)
