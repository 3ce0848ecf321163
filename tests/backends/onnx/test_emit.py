"""Models through calibration, emission and onnxruntime: float values agree, integers are equal."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from fxedge.backends.onnx import backend
from fxedge.backends.onnx.emit import float_bytes, program_bytes
from fxedge.backends.onnx.inspect import leftover, optimized_graph
from fxedge.backends.onnx.rules import ONNX
from fxedge.backends.onnx.table import LoweringTable
from fxedge.backends.onnx.writer import INT4_OPSET, OPSET
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.constants import constants, set_constant
from fxedge.compiler.ir.errors import UnsupportedOpsError
from fxedge.compiler.ir.ops import aten
from fxedge.compiler.pipeline.calibration import collect
from fxedge.compiler.pipeline.lower import lower, plan_targets, prepare
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.quant.layer_options import LayerOptions
from fxedge.compiler.quant.program import IntegerStep, Program
from fxedge.compiler.quant.simulate import simulate
from torch import Tensor, fx, nn
from torch.nn import functional as F

Batch = tuple[Tensor, ...]
IMAGE = (2, 8, 10, 12)


class Op(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Tensor) -> Any:
        return self.function(*args)


class Between(nn.Module):
    """conv -> `op` -> conv, so that `op` reads and gives integers."""

    def __init__(self, op: nn.Module | Callable[..., Any], channels: int = 8, out: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before = nn.Conv2d(8, channels, 3, padding=1)
        self.op = op if isinstance(op, nn.Module) else Op(op)
        self.after = nn.Conv2d(out, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.op(self.before(x)))


class ToLinear(nn.Module):
    """conv -> `op`, which gives features -> linear."""

    def __init__(self, op: Callable[[Tensor], Tensor], features: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before, self.op, self.after = nn.Conv2d(8, 8, 3), Op(op), nn.Linear(features, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.op(self.before(x)))


def batches(*sizes: Sequence[int], count: int = 3) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [tuple(torch.randn(*size, generator=generator) for size in sizes) for _ in range(count)]


def quantized(model: nn.Module, data: Sequence[Batch], **options: Any) -> Program:
    chosen = CompileOptions(**options)
    prepared = prepare(model.eval(), data[0], chosen)
    plans = plan_targets(prepared, [ONNX], chosen)
    return lower(prepared, ONNX, plans["onnx"], collect(prepared, plans, data, chosen)).program


def larger(batch: Batch) -> Batch:
    """Another batch size than the one captured with."""
    return tuple(torch.cat([tensor, tensor.flip(0), tensor]) for tensor in batch)


def compare(program: Program, batch: Batch, folder: Path) -> Counter[str]:
    """Every integer of the deployed model equals the simulator's; the op types that onnxruntime runs."""
    names = list(program.integer_values())
    backend.emit(program, folder / "exposed.onnx", names)
    backend.emit(program, folder / "plain.onnx")
    inputs = [tensor.numpy() for tensor in batch]
    deployed = backend.load(folder / "exposed.onnx").run(inputs)
    simulated = simulate(program, batch, keep=names)
    outputs = deployed[: len(simulated.outputs)]
    for name, integers in zip(names, deployed[len(outputs) :], strict=True):
        off = (torch.from_numpy(integers.astype(np.int32)) - simulated.integers[name]).abs()
        assert int(off.max()) == 0, f"{name}: {int((off > 0).sum())} integers differ, worst {int(off.max())}"
    for plain, exposed in zip(backend.load(folder / "plain.onnx").run(inputs), outputs, strict=True):
        np.testing.assert_array_equal(plain, exposed)
    assert backend.unfused(program, folder / "plain.onnx") == ()
    return Counter(node.op_type for node in optimized_graph(folder / "plain.onnx").node)


def transposed(*args: Any, **options: Any) -> nn.Module:
    torch.manual_seed(2)
    return nn.ConvTranspose2d(8, 8, *args, **options)


INTEGER: dict[str, tuple[nn.Module, set[str]]] = {
    "relu": (Between(lambda x: F.relu(x)), {"QLinearConv"}),
    "relu6-inside-the-range": (Between(lambda x: F.relu6(x * 20)), {"QLinearConv"}),
    "clamp": (Between(lambda x: torch.clamp(x, -0.3, 0.2)), {"QLinearConv"}),
    "clamp-by-channel": (
        Between(lambda x: torch.clamp(F.relu(x), max=torch.linspace(0.01, 0.3, 8).reshape(8, 1, 1))),
        {"QLinearConv", "Min"},
    ),
    "clamp-by-channel-both-sides": (
        Between(
            lambda x: torch.clamp(
                x, torch.linspace(-0.3, 0.0, 8).reshape(8, 1, 1), torch.linspace(0.3, 0.1, 8).reshape(1, 8, 1, 1)
            )
        ),
        {"QLinearConv", "Max", "Min"},
    ),
    "clamp-by-channel-of-shared": (
        Between(lambda x: torch.minimum(F.max_pool2d(x, 2), torch.linspace(0.0, 0.3, 8).reshape(8, 1, 1))),
        {"NhwcMaxPool", "Min"},
    ),
    "clamp-by-channel-without-effect": (
        Between(lambda x: torch.minimum(F.max_pool2d(x, 2), torch.arange(8.0).reshape(8, 1, 1) + 9)),
        {"NhwcMaxPool"},
    ),
    "clamp-of-features": (
        ToLinear(lambda x: torch.minimum(x.mean((2, 3)), torch.linspace(0.0, 0.1, 8)), 8),
        {"QLinearGlobalAveragePool", "Min"},
    ),
    "relu-of-shared": (Between(lambda x: F.relu(F.max_pool2d(x, 2))), {"NhwcMaxPool"}),
    "leaky": (Between(lambda x: F.leaky_relu(x, 0.1)), {"QLinearLeakyRelu"}),
    "hardswish": (Between(F.hardswish), {"QLinearAdd", "QLinearMul"}),
    "hardsigmoid": (Between(F.hardsigmoid), {"QLinearAdd"}),
    "silu": (Between(F.silu), {"QLinearSigmoid", "QLinearMul"}),
    "gelu": (Between(F.gelu), {"Gelu"}),
    "gelu-tanh": (Between(lambda x: F.gelu(x, approximate="tanh")), {"Gelu"}),
    "sigmoid": (Between(torch.sigmoid), {"QLinearSigmoid"}),
    "tanh": (Between(torch.tanh), {"Tanh"}),
    "softmax": (Between(lambda x: x.softmax(1)), {"QLinearSoftmax"}),
    "add": (Between(lambda x: x + F.max_pool2d(x, 3, 1, 1)), {"QLinearAdd"}),
    "relu-of-two-readers": (
        Between(lambda x: torch.cat([F.relu(x), F.relu6(x * 1), x], 1), out=24),
        {"QLinearLeakyRelu", "QLinearConcat"},
    ),
    "mul": (Between(lambda x: x * torch.sigmoid(F.max_pool2d(x, 3, 1, 1))), {"QLinearMul", "QLinearSigmoid"}),
    "sub": (Between(lambda x: x - F.max_pool2d(x, 3, 1, 1)), {"Sub"}),
    "gate": (
        Between(lambda x: x * torch.sigmoid(F.adaptive_avg_pool2d(x, 1))),
        {"QLinearGlobalAveragePool", "QLinearMul"},
    ),
    "concat": (Between(lambda x: torch.cat([x, F.relu(x)], 1), out=16), {"QLinearConcat"}),
    "chunk": (Between(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1)), {"QLinearConcat"}),
    "split": (Between(lambda x: x.split([3, 5], 1)[1], out=5), {"Slice"}),
    "max-pool-ceil": (Between(lambda x: F.max_pool2d(x, 2, 4, ceil_mode=True)), {"NhwcMaxPool"}),
    "max-pool": (Between(lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True)), {"NhwcMaxPool"}),
    "avg-pool": (Between(lambda x: F.avg_pool2d(x, 3, 2, 1)), {"QLinearAveragePool"}),
    "avg-pool-valid": (
        Between(lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)),
        {"QLinearAveragePool"},
    ),
    "mean": (ToLinear(lambda x: x.mean((2, 3)), 8), {"QLinearGlobalAveragePool", "QGemm"}),
    "flatten": (ToLinear(lambda x: x.flatten(1), 640), {"QGemm", "Reshape"}),
    "permute": (ToLinear(lambda x: x.permute(0, 2, 3, 1), 8), {"QGemm"}),
    "view": (ToLinear(lambda x: x.view(x.size(0), -1), 640), {"QGemm", "Reshape"}),
    "transpose-slice-select": (ToLinear(lambda x: x.transpose(1, 3)[:, 1:9:2, 3], 8), {"QGemm"}),
    "pad": (Between(lambda x: F.pad(x, (1, 2, 0, 1))), {"Pad"}),
    "pad-value": (Between(lambda x: F.pad(x, (1, 2, 0, 1), value=0.5)), {"Pad"}),
    "pad-reflect": (Between(lambda x: F.pad(x, (1, 2, 0, 1), mode="reflect")), {"Pad"}),
    "nearest": (Between(lambda x: F.interpolate(x, scale_factor=3)), {"Resize"}),
    "nearest-size": (Between(lambda x: F.interpolate(x, size=(20, 36))), {"Resize"}),
    "bilinear": (
        Between(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")),
        {"Resize", "DequantizeLinear"},
    ),
    "layer-norm": (Between(nn.LayerNorm([8, 10, 12])), {"LayerNormalization"}),
    "pixel-shuffle": (Between(nn.PixelShuffle(2), out=2), {"DepthToSpace"}),
    "expand": (Between(lambda x: F.adaptive_avg_pool2d(x, 1).expand(-1, -1, 4, 4)), {"Expand"}),
    "matmul": (Between(lambda x: torch.matmul(x, x.transpose(2, 3))), {"QLinearMatMul"}),
    "grouped": (Between(nn.Conv2d(8, 12, 3, groups=4, dilation=2), out=12), {"QLinearConv"}),
    "transposed-2x2": (Between(transposed(2, 2)), {"QLinearConv"}),
    "transposed-overlap": (Between(transposed(3, 2, padding=1, output_padding=1)), {"QLinearConv"}),
    "transposed-stride-1": (Between(transposed(3, 1, padding=1, bias=False)), {"QLinearConv"}),
    "transposed-gaps": (Between(transposed(2, 3, output_padding=1)), {"QLinearConv"}),
    "transposed-grouped": (Between(transposed(5, 2, padding=2, output_padding=1, groups=4)), {"QLinearConv"}),
}
ALLOWED_FLOAT = {"bilinear", "layer-norm"}


@pytest.mark.parametrize("name", INTEGER)
def test_integers_are_equal(name: str, tmp_path: Path) -> None:
    model, expected = INTEGER[name]
    data = batches(IMAGE)
    program = quantized(model, data)
    found = compare(program, larger(data[2]), tmp_path)
    assert expected <= set(found)
    if name not in ALLOWED_FLOAT:
        integer_anchors = [step.anchor.name for step in program.steps if isinstance(step, IntegerStep)]
        assert not [node for node in _compute_nodes(program.gm) if node.name not in integer_anchors]


def _compute_nodes(gm: fx.GraphModule) -> list[fx.Node]:
    """Convolutions and products of a graph."""
    kinds = (aten.conv2d.default, aten.linear.default, aten.matmul.default, aten.conv_transpose2d.input)
    return [node for node in gm.graph.nodes if node.target in kinds]


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        (nn.Sequential(nn.Conv1d(4, 8, 5, stride=2), nn.ReLU(), nn.ConvTranspose1d(8, 3, 4, 2)), (2, 4, 21)),
        (nn.Sequential(nn.Conv3d(2, 4, 3), nn.ReLU(), nn.ConvTranspose3d(4, 2, 2, 2)), (2, 2, 6, 5, 6)),
        (nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4)), (2, 5, 12)),
    ],
    ids=["1d", "3d", "linear-rank-3"],
)
def test_integers_are_equal_in_other_ranks(model: nn.Module, sizes: Any, tmp_path: Path) -> None:
    data = batches(sizes)
    found = compare(quantized(model, data), larger(data[1]), tmp_path)
    assert not {"Conv", "FusedConv", "ConvTranspose", "Gemm", "MatMul"} & set(found)


def test_linears_between_symbolic_axes_are_integer(tmp_path: Path) -> None:
    """Batch and sequence both change in size: rows are put back by the input's own sizes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4))
    program = quantized(model, batches((2, 5, 12)), dynamic_axes=(0, 1))
    found = compare(program, batches((3, 7, 12))[0], tmp_path)
    assert found["QGemm"] == 2


def test_a_layer_kept_float_is_not_quantized_by_the_runtime(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, bias=False), nn.Conv2d(8, 4, 1))
    data = batches(IMAGE)
    found = compare(quantized(model, data, keep_float=("1",)), data[0], tmp_path)
    assert found["QLinearConv"] == 2
    assert found["Conv"] + found["FusedConv"] == 1


def test_a_softmax_over_one_element_is_one(tmp_path: Path) -> None:
    """QLinearSoftmax would give 0."""
    model, data = Between(lambda x: x[:, :1].softmax(1), out=1), batches(IMAGE)
    program = quantized(model, data)
    assert not compare(program, data[0], tmp_path)["QLinearSoftmax"]
    (answer,) = backend.load(tmp_path / "plain.onnx").run([data[0][0].numpy()])
    torch.testing.assert_close(torch.from_numpy(answer), model(*data[0]).detach(), rtol=0.02, atol=0.02)


def test_views_with_two_symbolic_sizes(tmp_path: Path) -> None:
    gm = capture(Op(lambda x: x.unflatten(2, (2, 3)).flatten(2, 3)), (torch.randn(2, 5, 6),), dynamic_axes=(0, 1))
    backend.emit_float(gm, tmp_path / "float.onnx")
    x = torch.randn(3, 4, 6)
    (answer,) = backend.load(tmp_path / "float.onnx").run([x.numpy()])
    np.testing.assert_array_equal(answer, x.numpy())


FLOAT: dict[str, Callable[..., Any]] = {
    "arithmetic": lambda x: (x + 1) * 2 - x / 3 + (1 - x) + torch.add(x, x, alpha=2),
    "powers": lambda x: x**2 + (x.abs() + 1).sqrt() + torch.rsqrt(x.abs() + 1) + x.abs() ** 1.5,
    "exponentials": lambda x: torch.exp(-x.abs()) + torch.log(x.abs() + 1) + torch.erf(x) + x.sin() + x.cos(),
    "activations": lambda x: F.silu(x) + F.hardswish(x) + F.mish(x) + F.elu(x) + F.softplus(x) + F.gelu(x),
    "clamps by tensors": lambda x: (
        torch.clamp(x, -x.abs(), x[:1].mean((2, 3), keepdim=True)) + x.clamp(max=x.mean())
    ),
    "clamps": lambda x: x.clamp(-1, 1) + x.clamp(min=0.1) + x.clamp(max=0.3) + F.relu6(x) + F.hardtanh(x),
    "softmaxes": lambda x: x.softmax(1) + x.log_softmax(-1),
    "comparisons": lambda x: torch.where((x > 0.1) & ~(x <= 0.5), x, -x) + x.ge(0).to(x.dtype),
    "masks": lambda x: x.masked_fill(x != x.abs(), 2.0),
    "maxima": lambda x: torch.maximum(x, -x) + torch.minimum(x, x * 2) + x.amax(1, keepdim=True),
    "sums": lambda x: (x.sum((1, 2)), x.sum(), x.mean(), x.mean(-1), x.mean((2, 3)), x.argmax(1)),
    "normalize": lambda x: F.normalize(x, dim=1),
    "bilinear": lambda x: F.interpolate(x, size=(7, 19), mode="bilinear"),
    "bilinear-corners": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True),
    "nearest": lambda x: F.interpolate(x, scale_factor=1.5),
    "pads": lambda x: F.pad(F.pad(x, (1, 0, 2, 1), mode="replicate"), (0, -1), value=3.0),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (5, 3)),
    "views": lambda x: x.reshape(x.shape[0], 2, 4, -1).permute(0, 2, 1, 3).flatten(2)[:, 1:, ::2],
    "unsqueeze": lambda x: x.unsqueeze(1).squeeze(1).select(1, -1).transpose(1, 2).expand(-1, -1, -1),
    "stack": lambda x: torch.stack([x, x + 1], 2),
    "split": lambda x: x.split(3, 1),
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "made": lambda x: x + torch.ones(12) + torch.arange(12) + torch.zeros_like(x) + torch.full((10, 1), 2.0),
    "by-size": lambda x: x.mean((1, 2, 3)) + torch.arange(x.shape[0]),
    "cumsum": lambda x: x.cumsum(1),
    "gather": lambda x: x.index_select(1, torch.tensor([2, 0])).gather(3, x[:, :2].abs().argmax(3, keepdim=True)),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "masked-attention": lambda x: F.scaled_dot_product_attention(x, x, x, torch.ones(10, 10).tril().bool()),
    "where-numbers": lambda x: (
        torch.where(x > 0, x, 0.5) + torch.where(x > 1, 2.0, x) + torch.where(x > 1, 1.0, 0.0)
    ),
    "unbind": lambda x: x.unbind(-1)[1] + x.unbind(1)[0].sum(-1).mean(),
    "flip-and-roll": lambda x: x.flip(1, 3) + x.roll((1, -3), (2, 3)),
    "index": lambda x: x[:, [2, 0, -1]],
    "extremes": lambda x: (*x.max(1), x.min(2, keepdim=True)[0], x.logsumexp(1)),
    "adaptive-max": lambda x: (F.adaptive_max_pool2d(x, 1), F.adaptive_max_pool2d(x, (5, 3))),
    "nearest-exact": lambda x: F.interpolate(x, scale_factor=1.5, mode="nearest-exact"),
    "bicubic": lambda x: F.interpolate(x, scale_factor=2.0, mode="bicubic"),
    "cosine": lambda x: F.cosine_similarity(x, x.flip(1), dim=1),
}


@pytest.mark.parametrize("name", FLOAT)
def test_the_float_artifact_agrees_with_pytorch(name: str, tmp_path: Path) -> None:
    (x,) = batches(IMAGE, count=1)[0]
    _float_agrees(Op(FLOAT[name]), (x,), tmp_path)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(8, 4, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
        nn.Conv2d(8, 4, 3, padding="same"),
        nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1, dilation=2),
        nn.BatchNorm2d(8),
        nn.BatchNorm2d(8, affine=False),
        nn.LayerNorm(12),
        nn.LayerNorm([10, 12], elementwise_affine=False),
        nn.GroupNorm(4, 8),
        nn.GroupNorm(2, 8, affine=False),
        nn.InstanceNorm2d(8),
        nn.InstanceNorm2d(8, affine=True),
        nn.PReLU(8),
        nn.Linear(12, 7),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        nn.MaxPool2d(3, 2, 1, dilation=2, ceil_mode=True),
        nn.MaxPool2d(2, 4, ceil_mode=True),
        nn.AvgPool2d(3, 4, 1, ceil_mode=True, count_include_pad=False),
        nn.Dropout(),
    ],
    ids=str,
)
def test_a_float_module_agrees_with_pytorch(module: nn.Module, tmp_path: Path) -> None:
    _float_agrees(module.eval(), batches(IMAGE, count=1)[0], tmp_path)


def test_an_embedding_agrees_with_pytorch(tmp_path: Path) -> None:
    _float_agrees(nn.Embedding(10, 4), (torch.randint(0, 10, (2, 5)),), tmp_path)


def _float_agrees(module: nn.Module, inputs: Batch, folder: Path) -> None:
    gm = capture(module, inputs)
    backend.emit_float(gm, folder / "float.onnx")
    batch = larger(inputs)
    expected = gm(*batch)
    flat = list(expected) if isinstance(expected, (tuple, list)) else [expected]
    answers = backend.load(folder / "float.onnx").run([tensor.numpy() for tensor in batch])
    for answer, value in zip(answers, flat, strict=True):
        torch.testing.assert_close(torch.from_numpy(answer), value, rtol=1e-4, atol=1e-5)


def test_the_model_has_a_batch_axis_int8_weights_and_the_names_of_the_graph() -> None:
    program = quantized(nn.Sequential(nn.Conv2d(8, 4, 3), nn.ReLU()), batches(IMAGE))
    model = onnx.load_from_string(program_bytes(program))
    assert [(i.version, i.domain) for i in model.opset_import] == [(OPSET, "")]
    dims = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", 8, 10, 12]
    dims = [d.dim_param or d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    assert dims == ["batch", 4, 8, 10]
    large = {i.name: i.data_type for i in model.graph.initializer if np.prod(i.dims) > 16}
    assert set(large.values()) == {onnx.TensorProto.INT8}
    anchors = {step.anchor.name for step in program.steps if isinstance(step, IntegerStep)}
    assert anchors <= {node.name for node in model.graph.node if node.op_type == "Conv"}


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3)),
        nn.Conv2d(8, 8, 3, groups=8),
        ToLinear(lambda x: x.flatten(1), 640),
        ToLinear(lambda x: x.permute(0, 2, 3, 1), 8),
        Between(transposed(3, stride=2, groups=2)),
    ],
    ids=["conv", "depthwise", "matrix", "linear of rank 4", "transposed"],
)
@pytest.mark.parametrize("bits", [4, 2])
def test_weights_of_four_bits_are_int4_and_stay_integer(model: nn.Module, bits: int, tmp_path: Path) -> None:
    data = batches(IMAGE)
    program = quantized(model, data, weight_bits=bits)
    compare(program, larger(data[0]), tmp_path)
    stored = onnx.load(tmp_path / "plain.onnx")
    onnx.checker.check_model(stored, full_check=True)
    assert [i.version for i in stored.opset_import] == [INT4_OPSET]
    small = [i for i in stored.graph.initializer if i.data_type == onnx.TensorProto.INT4]
    assert len(small) == sum(step.weight is not None for step in program.steps if isinstance(step, IntegerStep))
    assert all(len(i.raw_data) == (np.prod(i.dims) + 1) // 2 for i in small)
    assert max(int(abs(onnx.numpy_helper.to_array(i).astype(int)).max()) for i in small) == 2 ** (bits - 1) - 1


def test_one_layer_of_four_bits_raises_the_operator_set_and_no_other(tmp_path: Path) -> None:
    model, data = nn.Sequential(nn.Conv2d(8, 5, 3), nn.Conv2d(5, 3, 3)), batches(IMAGE)
    layers = {"0": LayerOptions(weight_bits=4), "1": LayerOptions(weight_bits=5)}
    kinds = {}
    for name, options in {"five bits": {"weight_bits": 5}, "mixed": {"layers": layers}}.items():
        stored = onnx.load_from_string(program_bytes(quantized(model, data, **options)))
        weights = [i.data_type for i in stored.graph.initializer if len(i.dims) == 4]
        kinds[name] = (stored.opset_import[0].version, stored.ir_version, weights)
    int8, int4 = onnx.TensorProto.INT8, onnx.TensorProto.INT4
    assert kinds == {"five bits": (OPSET, 9, [int8, int8]), "mixed": (INT4_OPSET, 10, [int4, int8])}


def test_integers_outside_their_declared_range_are_not_stored_as_int4() -> None:
    program = quantized(nn.Conv2d(8, 6, 3), batches(IMAGE), weight_bits=4)
    name = next(name for name in constants(program.gm) if name.endswith("weight_quantized"))
    set_constant(program.gm, name, torch.full((6, 8, 3, 3), 9, dtype=torch.int8))
    model = onnx.load_from_string(program_bytes(program))
    assert onnx.TensorProto.INT4 not in {i.data_type for i in model.graph.initializer}


def test_emission_gives_the_same_bytes_twice() -> None:
    program = quantized(Between(F.hardswish), batches(IMAGE))
    first, second = (hashlib.sha256(program_bytes(program)).hexdigest() for _ in range(2))
    assert first == second
    gm = capture(Between(F.hardswish), batches(IMAGE)[0])
    assert float_bytes(gm) == float_bytes(gm)


def test_a_product_left_in_float_is_named(tmp_path: Path) -> None:
    """The same nodes with the runtime's QDQ fusion off stay float, and are found."""
    import onnxruntime

    program = quantized(ToLinear(lambda x: x.flatten(1), 640), batches(IMAGE))
    path, optimized = tmp_path / "model.onnx", tmp_path / "optimized.onnx"
    backend.emit(program, path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.optimized_model_filepath = str(optimized)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    assert leftover(program, onnx.load(optimized).graph.node) == ("conv2d", "linear")
    assert backend.unfused(program, path) == ()


def test_every_unsupported_op_is_reported_at_once() -> None:
    gm = capture(
        Op(lambda x: torch.fft.fft(x).real + F.avg_pool2d(x, 3, 1, 1, divisor_override=2)), (torch.randn(IMAGE),)
    )
    with pytest.raises(UnsupportedOpsError) as caught:
        float_bytes(gm)
    assert str(caught.value) == (
        "3 op(s) cannot be lowered to onnx:\n"
        "  fft_fft aten.fft_fft.default: no lowering\n"
        "  real aten.real.default: no lowering\n"
        "  avg_pool2d aten.avg_pool2d.default: divisor_override is set"
    )


def test_an_op_has_one_lowering() -> None:
    table = LoweringTable()
    table.op(aten.relu.default)(lambda w, call: "")
    with pytest.raises(ValueError, match=r"^relu\.default has two lowerings$"):
        table.op(aten.relu.default)(lambda w, call: "")


def test_the_backend_says_what_it_is() -> None:
    assert backend.missing() is None
    assert backend.spec is ONNX
    assert backend.artifact == "model.onnx"
    assert set(backend.versions()) == {"onnx", "onnxruntime", "opset"}
