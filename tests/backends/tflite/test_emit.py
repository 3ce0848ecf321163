"""What the emitter writes: layout, bounds, names; each form is run and compared node by node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from differential import check_everywhere
from fxedge.backends.tflite import backend
from fxedge.backends.tflite.inspect import Operator, operators
from fxedge.backends.tflite.schema import schema
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.errors import UnsupportedOpsError
from fxedge.compiler.pipeline.calibration import collect
from fxedge.compiler.pipeline.lower import Lowered, lower, plan_targets, prepare
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.models import get
from support import Calls, inputs
from torch import Tensor, nn
from torch.nn import functional as F

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")

IMAGE = (2, 8, 6, 6)


def compiled(model: nn.Module, *shapes: Sequence[int], keep_float: tuple[str, ...] = ()) -> Lowered:
    example, options = inputs(*shapes), CompileOptions(recipe="fast", keep_float=keep_float)
    prepared = prepare(model.eval(), example, options)
    plans = plan_targets(prepared, [backend.spec], options)
    stats = collect(prepared, plans, [example], options)
    return lower(prepared, backend.spec, plans["tflite"], stats, options)


def written(lowered: Lowered, folder: Path) -> list[Operator]:
    path = folder / "model.tflite"
    backend.emit(lowered.program, path)
    return operators(path)


def codes(found: Sequence[Operator]) -> list[str]:
    return [op.code for op in found]


class Net(nn.Module):
    """A convolution, `function`, and a convolution or a linear layer after it."""

    def __init__(self, function: Callable[[Tensor], Tensor], last: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.function, self.last = nn.Conv2d(8, 8, 3, padding=1), function, last or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


@pytest.mark.parametrize("name", ["residual", "depthwise", "se_block"])
def test_one_transpose_at_the_border(name: str, tmp_path: Path) -> None:
    """The image arrives channels first; the classes have no axes to turn."""
    entry = get(name)
    shapes = [tuple(x.shape) for x in entry.example_inputs()]
    found = Counter(codes(written(compiled(entry.factory(), *shapes), tmp_path)))
    assert found["TRANSPOSE"] == 1
    assert found["QUANTIZE"] == 1
    assert found["DEQUANTIZE"] == 1


def test_the_float_artifact_has_one_transpose_too(tmp_path: Path) -> None:
    entry = get("residual")
    prepared = prepare(entry.factory(), entry.example_inputs(), CompileOptions(recipe="fast"))
    backend.emit_float(prepared.gm, tmp_path / "float.tflite")
    found = codes(operators(tmp_path / "float.tflite"))
    assert found.count("TRANSPOSE") == 1
    assert found.index("TRANSPOSE") == 0


def test_a_linear_layer_reads_a_flattened_image_as_it_lies(tmp_path: Path) -> None:
    model = Net(lambda x: F.relu(x).flatten(1), nn.Linear(8 * 36, 5))
    found = written(compiled(model, IMAGE), tmp_path)
    layers = ["CONV_2D", "RESHAPE", "CONV_2D", "RESHAPE"]  # the product is one of pixels
    assert codes(found) == ["QUANTIZE", "TRANSPOSE", *layers, "DEQUANTIZE"]
    check_everywhere(model, [inputs(IMAGE), inputs((3, 8, 6, 6))], tmp_path, ["tflite"])


def test_rows_of_a_detector_are_not_turned(tmp_path: Path) -> None:
    """flatten(2), cat and transpose of [batch, channels, height, width]: channels come last anyway."""
    model = Net(lambda x: torch.cat([x.flatten(2), F.max_pool2d(x, 2).flatten(2)], 2).transpose(1, 2))
    assert codes(written(compiled(model, IMAGE), tmp_path)).count("TRANSPOSE") == 1
    check_everywhere(model, [inputs(IMAGE), inputs((3, 8, 6, 6))], tmp_path, ["tflite"])


PADDINGS = {
    "same": (nn.Conv2d(8, 4, 3, padding=1), []),
    "none": (nn.Conv2d(8, 4, 3), []),
    "strided": (nn.Conv2d(8, 4, 3, 2, padding=1), ["PAD"]),
    "wide": (nn.Conv2d(8, 4, 3, padding=2), ["PAD"]),
}


@pytest.mark.parametrize("case", PADDINGS.values(), ids=PADDINGS.keys())
def test_padding_is_an_operator_only_where_same_would_differ(
    case: tuple[nn.Module, list[str]], tmp_path: Path
) -> None:
    found = written(compiled(case[0], IMAGE), tmp_path)
    assert codes(found) == ["QUANTIZE", "TRANSPOSE", *case[1], "CONV_2D", "TRANSPOSE", "DEQUANTIZE"]


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "hardtanh": lambda x: F.hardtanh(x, -0.05, 0.07),
    "relu6": lambda x: F.relu6(x * 40),
    "relu of a sum": lambda x: torch.cat([F.relu(x + F.max_pool2d(x, 3, 1, 1)), x], 1),
    "channel bounds": lambda x: torch.clamp(x, max=torch.linspace(0.01, 0.3, 8)[:, None, None]),
    "lone relu": lambda x: F.relu(F.max_pool2d(x, 2)),
    "leaky": lambda x: F.leaky_relu(x, 0.1),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "silu": F.silu,
    "softmax": lambda x: x.softmax(1),
    "gate": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "average": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "average, padding not counted": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "average, ceil": lambda x: F.avg_pool2d(x, 4, 4, ceil_mode=True),
    "max, ceil": lambda x: F.max_pool2d(x, 4, 3, 1, ceil_mode=True),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 3),
    "pad": lambda x: F.pad(x, (1, 0, 0, 2), value=0.5),
    "pad channels": lambda x: F.pad(x, (0, 0, 0, 0, 1, 3)),
    "replicate": lambda x: F.pad(x, (1, 2, 0, 1), mode="replicate"),
    "nearest": lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"),
    "nearest, uneven": lambda x: F.interpolate(x, size=(7, 9), mode="nearest"),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "bicubic": lambda x: F.interpolate(x, size=(9, 5), mode="bicubic"),
    "slice": lambda x: x[:, 1:7, ::2],
    "select": lambda x: x[:, :, -1].unsqueeze(2),
    "split": lambda x: torch.cat([part * 2 for part in x.split([3, 5], 1)], 1),
    "permute": lambda x: x.permute(0, 2, 3, 1).contiguous(),
    "channel shuffle": lambda x: x.reshape(-1, 2, 4, 6, 6).transpose(1, 2).reshape(-1, 8, 6, 6),
    "pixel shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "tokens": lambda x: x.flatten(2).transpose(1, 2) @ x.flatten(2),
    "layer norm": lambda x: F.layer_norm(x, (6, 6)),
    "group norm": lambda x: F.group_norm(x, 2),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_what_the_simulator_computes(name: str, tmp_path: Path) -> None:
    """Node by node within the rule's tolerance, the float artifact equal to the model, at three batch sizes."""
    batches = [inputs(IMAGE), inputs((3, 8, 6, 6)), inputs((1, 8, 6, 6))]
    assert check_everywhere(Net(FORMS[name]), batches, tmp_path, ["tflite"]).keys() == {"tflite"}


TRANSPOSED = {
    "up": nn.ConvTranspose2d(8, 4, 2, 2),
    "padded": nn.ConvTranspose2d(8, 6, 3, 2, 1, 1),
    "grouped": nn.ConvTranspose2d(8, 4, 3, 1, 1, groups=2),
    "dilated": nn.ConvTranspose2d(8, 4, 3, 2, dilation=2),
    "uneven": nn.ConvTranspose2d(8, 4, (3, 4), (1, 3), bias=False),
}


@pytest.mark.parametrize("layer", TRANSPOSED.values(), ids=TRANSPOSED.keys())
def test_transposed_convolutions_run_on_integers(layer: nn.Module, tmp_path: Path) -> None:
    found = written(compiled(layer, IMAGE), tmp_path)
    assert [op.kind for op in found if op.code == "CONV_2D"] == ["INT8"]
    check_everywhere(layer, [inputs(IMAGE), inputs((3, 8, 6, 6))], tmp_path, ["tflite"])


def test_bounds_that_the_operator_has_are_fused(tmp_path: Path) -> None:
    """A sum whose output is quantized beyond its relu keeps the relu in the operator; other bounds follow it."""
    path = tmp_path / "model.tflite"
    function: Callable[[Tensor], Tensor] = lambda x: torch.cat([F.relu(x + F.max_pool2d(x, 3, 1, 1)), x], 1)  # noqa: E731
    lowered = compiled(Net(function, nn.Conv2d(16, 4, 1)), IMAGE)
    backend.emit(lowered.program, path)
    model = schema().ModelT.InitFromPackedBuf(path.read_bytes())
    fused = [
        op.builtinOptions.fusedActivationFunction
        for op in model.subgraphs[0].operators
        if isinstance(op.builtinOptions, schema().AddOptionsT)
    ]
    assert fused == [1]
    assert "MAXIMUM" not in codes(operators(path))


def test_an_output_that_is_an_input_or_given_twice_is_a_copy(tmp_path: Path) -> None:
    model = Calls(lambda m, x: (m.conv(x), x, m.conv(x)), conv=nn.Conv2d(8, 4, 3))
    check_everywhere(model, [inputs(IMAGE), inputs((3, 8, 6, 6))], tmp_path, ["tflite"])


def test_the_batch_is_dynamic_in_every_tensor_that_has_one(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    backend.emit(compiled(nn.Conv2d(8, 4, 3), IMAGE).program, path)
    graph = schema().ModelT.InitFromPackedBuf(path.read_bytes()).subgraphs[0]
    signatures = {t.name.decode(): t.shapeSignature for t in graph.tensors}
    assert list(signatures["input"]) == [-1, 8, 6, 6]
    shapes = {tuple(s) for s in signatures.values() if s is not None}
    assert shapes == {(-1, 8, 6, 6), (-1, 6, 6, 8), (-1, 4, 4, 4)}


def test_stored_tensors_lie_at_multiples_of_sixteen(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    backend.emit(compiled(nn.Conv2d(8, 4, 3), IMAGE).program, path)
    content = path.read_bytes()
    model = schema().ModelT.InitFromPackedBuf(content)
    weight = next(t for t in model.subgraphs[0].tensors if t.name == b"conv2d/weight")
    data = bytes(model.buffers[weight.buffer].data)
    assert content.index(data) % 16 == 0


class Unsupported(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose3d(x.cumsum(1), torch.ones(2, 1, 1, 1, 1)).sort(1).values


def test_everything_without_a_lowering_is_named_at_once(tmp_path: Path) -> None:
    gm = capture(Unsupported(), inputs((2, 2, 4, 4, 4)))
    with pytest.raises(UnsupportedOpsError) as caught:
        backend.emit_float(gm, tmp_path / "model.tflite")
    assert str(caught.value) == (
        "3 op(s) cannot be lowered to tflite:\n"
        "  cumsum aten.cumsum.default: no lowering\n"
        "  conv_transpose3d aten.conv_transpose3d.input: no lowering\n"
        "  sort aten.sort.default: no lowering"
    )
    assert not (tmp_path / "model.tflite").exists()
