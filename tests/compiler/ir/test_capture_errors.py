"""Every way in which a capture fails, with its full message."""

from __future__ import annotations

import linecache
from pathlib import Path

import pytest
import torch
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.errors import CaptureError
from support import inputs
from torch import Tensor, nn

IMAGE = (2, 3, 4, 4)
FILE = Path(__file__).name
SYMBOLIC_ADVICE = (
    "symbolic_trace cannot follow Python control flow over tensors; use tracer='export' (--tracer export)."
)


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 48)


class Number(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return x + 1, 3


class Net(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Identity()
        self.block = nn.Sequential(nn.ReLU(), inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.stem(x))


def _line(text: str) -> str:
    number = next(i for i, line in enumerate(linecache.getlines(__file__), 1) if line.strip() == text)
    return f"{FILE}:{number} `{text}`"


def _message(model: object, shape: tuple[int, ...] = IMAGE, **options: object) -> str:
    with pytest.raises(CaptureError) as caught:
        capture(model, inputs(shape), **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_data_dependent_branch(capsys: pytest.CaptureFixture[str]) -> None:
    assert _message(Net(Branch())) == (
        f"Net could not be captured with tracer='export' in module block.1 at {_line('if x.sum() > 0:')}: Could "
        f"not "
        "guard on data-dependent expression Eq(u0, 1) (unhinted: Eq(u0, 1)).  (Size-like symbols: none) (example "
        "inputs: (2, 3, 4, 4) float32). A Python branch or size depends on tensor values. Use torch.where or "
        "torch.cond, or take the branch out of the captured part."
    )
    assert "def forward" not in capsys.readouterr().err


def test_branch_under_symbolic_trace() -> None:
    assert _message(Net(Branch()), tracer="symbolic") == (
        f"Net could not be captured with tracer='symbolic' in module block.1 at {_line('if x.sum() > 0:')}: "
        "symbolically traced variables cannot be used as inputs to control flow (example inputs: (2, 3, 4, 4) "
        f"float32). {SYMBOLIC_ADVICE}"
    )


def test_fixed_batch() -> None:
    assert _message(Net(FixedBatch())) == (
        f"Net could not be captured with tracer='export' in module block.1 at "
        f"{_line('return x.reshape(2, 48)')}: its "
        "inputs cannot change in size on axis 0: shape '[2, 48]' is invalid for input of size 144 (example "
        "inputs: "
        "(2, 3, 4, 4) float32). The model only works for the example's own size on an axis that was declared "
        "dynamic. "
        "Replace the hard-coded size by x.shape[...] or -1, or capture with dynamic_axes=() (--static) for one "
        "fixed "
        "size."
    )


def test_wrong_input_shape() -> None:
    assert _message(nn.Sequential(nn.Conv2d(4, 3, 1))) == (
        "Sequential could not be captured with tracer='export' in module 0: Given groups=1, weight of size "
        "[3, 4, 1, 1], expected input[s31, 3, 4, 4] to have 4 channels, but got 3 channels instead (example "
        "inputs: "
        "(2, 3, 4, 4) float32). Check that there is one example input for each input of the model, of the shape "
        "that "
        "it expects."
    )


def test_weight_that_is_not_finite() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight[1, 3] = float("nan")
    assert _message(model) == (
        "The weight 0.weight holds nan at index [1, 3]; weights must be finite. Check the checkpoint that they "
        "come "
        "from."
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weight_that_is_not_float32(dtype: torch.dtype) -> None:
    with pytest.raises(CaptureError) as error:
        capture(Net(nn.Conv2d(3, 3, 1, bias=False)).to(dtype), inputs(IMAGE))
    assert str(error.value) == (
        f"The weight block.1.weight is {str(dtype).removeprefix('torch.')}, but models are compiled from float32. "
        "Call model.float() first."
    )


def test_bias_that_is_not_float32() -> None:
    with pytest.raises(CaptureError) as error:
        capture(Net(nn.Conv2d(3, 3, 1)).to(torch.float64), inputs(IMAGE))
    message = str(error.value)
    assert message.startswith("Net could not be captured with tracer='export' in module block.1 at ")
    assert message.endswith(
        " (example inputs: (2, 3, 4, 4) float32). Models are compiled from float32: call model.float() first, and "
        "give float32 data."
    )


def test_one_tensor_for_a_tuple() -> None:
    with pytest.raises(CaptureError) as error:
        capture(nn.ReLU(), torch.zeros(IMAGE))  # type: ignore[arg-type]
    assert str(error.value) == (
        "The example inputs are one tensor; give a tuple of them, one for each input: (x,)."
    )


def test_unknown_tracer() -> None:
    with pytest.raises(CaptureError) as error:
        capture(nn.ReLU(), inputs(IMAGE), tracer="jit")  # type: ignore[arg-type]
    assert str(error.value) == "There is no tracer 'jit'; allowed: export, symbolic."


def test_output_that_is_no_tensor() -> None:
    assert _message(Number()) == "The model returns 3, of type int; allowed: tensors, tuples, lists and dicts."


def test_dropout_that_is_always_on() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(x, 0.5)

    assert _message(Noisy()) == (
        "The captured graph cannot be compiled: dropout was captured in training mode; call model.eval() first, "
        "and "
        "give functional calls training=self.training"
    )


def test_batch_norm_without_running_statistics() -> None:
    assert _message(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False))) == (
        "The captured graph cannot be compiled: 0 (batch_norm) normalizes by the statistics of its batch; only "
        "batch "
        "norms with running statistics can be compiled"
    )


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    assert _message(path) == f"{path} does not exist; give the path of a .pt2 file made by torch.export.save."


@pytest.mark.parametrize("damage", ["garbage", "cut", "other"])
def test_unreadable_file(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(nn.Linear(4, 4), inputs((2, 4))), path)
    if damage == "other":
        torch.save({"weight": torch.ones(1)}, path)
    else:
        path.write_bytes(b"garbage" if damage == "garbage" else path.read_bytes()[:-200])
    assert _message(path) == (
        f"{path} is not a readable .pt2 file: it is damaged, it was not made by torch.export.save, or a torch "
        f"newer "
        f"than this one ({torch.__version__}) made it."
    )


def test_something_else() -> None:
    assert _message(3) == (
        "Cannot capture an object of type int; allowed: an nn.Module, an fx.GraphModule, an ExportedProgram, or "
        "the "
        "path of a .pt2 file."
    )
