import dataclasses

import pytest
import torch
from fxedge.compiler.quant.program import IntegerStep
from fxedge.compiler.quant.qparams import quantize
from fxedge.passes.rounding import layer_rows
from fxedge.passes.rounding.layer_rows import LayerRows, by_group, from_groups
from support import Calls, inputs
from torch import nn
from toy_target import TOY, lower

MANY = [
    (nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), (2, 4, 9)),
    (nn.Conv2d(4, 4, (3, 1), padding=(2, 0), groups=4), (2, 4, 5, 6)),
    (nn.Conv3d(2, 3, (1, 2, 3), stride=(1, 2, 1), padding=1), (2, 2, 3, 4, 5)),
    (nn.ConvTranspose2d(4, 6, (3, 2), stride=(3, 1), padding=(1, 0), groups=2, dilation=(1, 2)), (2, 4, 4, 3)),
    (nn.ConvTranspose2d(2, 3, 1, stride=2, padding=1, output_padding=1), (2, 2, 4, 3)),
    (nn.Linear(5, 3), (2, 3, 5)),
]


@pytest.mark.parametrize(("layer", "shape"), MANY, ids=lambda value: type(value).__name__)
def test_rows_times_weights_are_the_layer(layer, shape):
    spec = dataclasses.replace(
        TOY, ops={**TOY.ops, torch.ops.aten.conv3d.default: TOY.ops[torch.ops.aten.conv2d.default]}
    )
    (x,) = inputs(shape)
    lowered = lower(layer, x, spec=spec)
    (step,) = [step for step in lowered.program.steps if isinstance(step, IntegerStep)]
    integers = quantize(x, step.in_qparams[0])
    unit = step.weight_qparams.scale_tensor() * step.in_qparams[0].scale_tensor()
    attrs = {key: value for key, value in step.attrs.items() if key != "bias"}
    axis = -1 if shape[-1] == 5 and len(shape) == 3 else 1
    unit_shape = [-1 if place == axis % x.ndim else 1 for place in range(x.ndim)]
    centered = (integers - step.in_qparams[0].zero_point[0]).float()
    output = step.anchor.target(centered, step.weight.float(), step.bias / unit, **attrs) * unit.reshape(
        unit_shape
    )
    grouped = by_group(step, step.weight.float())
    assert torch.equal(from_groups(step, grouped), step.weight.float())
    for positions in (3, 10**6):
        found = LayerRows(step, [integers], positions, 0)
        (rows,), (wanted,) = found.integers(), found.wanted([output])
        assert rows.shape[1] == wanted.shape[1]
        torch.testing.assert_close(rows @ grouped, wanted, rtol=1e-4, atol=0.05)
    assert wanted.numel() == output.numel()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, 3, padding=1, groups=2), (5, 4, 6, 6)),
        (nn.ConvTranspose2d(4, 6, 3, 2), (5, 4, 3, 3)),
        (nn.Linear(5, 3), (7, 5)),
        (nn.Linear(5, 3), (7, 4, 5)),
    ],
)
def test_pieces_of_samples_are_the_whole(layer, shape, monkeypatch):
    (x,) = inputs(shape)
    lowered = lower(Calls(lambda m, x: m.a(x), a=layer), x)
    (step,) = [step for step in lowered.program.steps if isinstance(step, IntegerStep)]
    rows = LayerRows(step, [quantize(x, step.in_qparams[0])], 10**6, 0)
    (whole,) = rows.integers()
    monkeypatch.setattr(layer_rows, "_PIECE", 2 * whole.numel() // len(x))
    pieces = list(rows.integers())
    assert len(pieces) == len(x) // 2 + 1
    assert torch.equal(torch.cat(pieces, 1), whole)
