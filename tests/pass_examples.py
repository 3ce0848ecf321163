"""For each pass, a net small enough to be drawn on which it has something to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from fxedge.backends.fbgemm import backend as fbgemm
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.ops import aten
from fxedge.compiler.ir.passes import Pass, PassContext, PassReport, run_passes
from fxedge.compiler.ir.qops import DQ, Q
from fxedge.compiler.quant.calibrate import calibrate
from fxedge.compiler.quant.collectors import CollectorMethod
from fxedge.compiler.quant.layer_options import LayerOptions
from fxedge.compiler.quant.plan import plan_quantization
from fxedge.compiler.quant.qparams import QParams
from fxedge.compiler.quant.saturation import by_output, in_one_row
from fxedge.passes import (
    AbsorbBias,
    Canonicalize,
    CleanQdq,
    CorrectBias,
    EqualizeActivations,
    EqualizeLayers,
    FixSaturation,
    FoldBatchNorm,
    FoldDeadChannels,
    FuseActivation,
    InsertQdq,
    JoinRanges,
    RoundWeights,
    ShiftActivations,
    SmoothActivations,
    SplitOutliers,
    SplitRanges,
    StripQdq,
)
from quantized_ops import OpCase, qint8, quint8
from support import Calls, inputs
from torch import Tensor, fx, nn
from torch.nn import functional as F
from toy_target import TOY, HandWritten, captured, grid, lower

IMAGE = (4, 3, 6, 6)


class Drawn(NamedTuple):
    """A graph before and after a pass, and what the runner says."""

    before: fx.GraphModule
    after: fx.GraphModule
    report: PassReport


@torch.no_grad()
def filled(layer: nn.Module, *rows: float, bias: tuple[float, ...] = ()) -> nn.Module:
    """`layer` with seeded weights whose rows reach these magnitudes, and with these biases."""
    generator = torch.Generator().manual_seed(layer.weight.numel())
    layer.weight.uniform_(-1, 1, generator=generator)
    for row, size in zip(layer.weight, rows, strict=False):
        row.mul_(size / row.abs().max())
    if layer.bias is not None:
        layer.bias.zero_()
        layer.bias[: len(bias)] = torch.tensor(bias)
    return layer


def _float(
    model: nn.Module, item: Pass, *first: Pass, shape: tuple[int, ...] = IMAGE, sampled: bool = True
) -> Drawn:
    """The pass on the captured model, behind the passes `first`; with calibration samples if `sampled`."""
    example = inputs(shape)
    graphs = [capture(model.eval(), example) for _ in range(2)]
    ctx = PassContext(example_inputs=example, batches=(lambda: iter([example])) if sampled else None)
    for gm in graphs:
        run_passes(gm, first, ctx)
    return Drawn(graphs[0], graphs[1], run_passes(graphs[1], [item], ctx))


def _given(make: Callable[[], fx.GraphModule], item: Pass, ctx: PassContext | None = None) -> Drawn:
    """The pass on a graph that is quantized already."""
    after = make()
    return Drawn(make(), after, run_passes(after, [item], ctx))


def _canonicalize() -> Drawn:
    model = Calls(lambda m, x: F.relu6(m.drop(m.conv(x))).contiguous() - 1, conv=_pointwise(), drop=nn.Dropout())
    return _float(model, Canonicalize())


def _pointwise(*rows: float, channels: int = 3, bias: tuple[float, ...] = ()) -> nn.Module:
    return filled(nn.Conv2d(channels, max(len(rows), 2), 1), *rows, bias=bias)


@torch.no_grad()
def _fold_batch_norm() -> Drawn:
    norm = nn.BatchNorm2d(2)
    norm.weight.copy_(torch.tensor([4.0, 0.5]))
    norm.bias.copy_(torch.tensor([1.0, -1.0]))
    model = Calls(lambda m, x: m.norm(m.conv(x)).relu(), conv=_pointwise(1, 1), norm=norm)
    return _float(model, FoldBatchNorm(), Canonicalize())


def _fuse_activation() -> Drawn:
    model = Calls(lambda m, x: torch.cat([m.a(x), m.b(x)], 1).relu(), a=_pointwise(1, 1), b=_pointwise(1, 2))
    return _float(model, FuseActivation(), Canonicalize())


def _fold_dead_channels() -> Drawn:
    first = _pointwise(1, 1e-19, 0.5, bias=(0, 3))
    model = Calls(lambda m, x: m.b(m.a(x).relu()), a=first, b=filled(nn.Conv2d(3, 2, 1), 0.5, 0.5))
    model.b.weight.data[:, 1] = 40.0
    return _float(model, FoldDeadChannels(), Canonicalize())


@torch.no_grad()
def _smooth_activations() -> Drawn:
    norm, linear = nn.LayerNorm(4), filled(nn.Linear(4, 3), 1, 1, 1)
    norm.weight[2] = 64.0
    return _float(
        Calls(lambda m, x: m.linear(m.norm(x)), norm=norm, linear=linear), SmoothActivations(), shape=(2, 5, 4)
    )


def _equalize_layers() -> Drawn:
    a, b = _pointwise(0.125, 1, 8), filled(nn.Conv2d(3, 2, 1), 1, 1)
    return _float(
        Calls(lambda m, x: m.b(m.a(x).relu()), a=a, b=b), EqualizeLayers(per_tensor_weights=True), Canonicalize()
    )


def _equalize_activations() -> Drawn:
    a, b = _pointwise(0.125, 1, 8), filled(nn.Conv2d(3, 2, 1), 1, 1)
    return _float(
        Calls(lambda m, x: m.b(F.silu(m.a(x))), a=a, b=b), EqualizeActivations(goal=60.0), Canonicalize()
    )


_SPLIT_RANGES = SplitRanges(per_tensor_weights=True, multiple_of=1, branches=2)


def _uneven() -> nn.Module:
    a, b = filled(nn.Conv2d(3, 4, 1), 1, 1, 1, 1), filled(nn.Conv2d(4, 4, 3, groups=4), 1, 200, 0.9, 180)
    return Calls(lambda m, x: m.c(F.hardswish(m.b(F.hardswish(m.a(x))))), a=a, b=b, c=filled(nn.Conv2d(4, 2, 1)))


def _split_ranges() -> Drawn:
    return _float(_uneven(), _SPLIT_RANGES, Canonicalize(), sampled=False)


def _split_outliers() -> Drawn:
    a, b = filled(nn.Conv2d(3, 4, 1), 1, 1, 1, 1), filled(nn.Conv2d(4, 2, 1), 1, 1)
    b.weight.data[0, 2] = 8.0
    item = SplitOutliers(ratio=0.01, usual=LayerOptions(weight_bits=4, per_tensor=True))
    return _float(Calls(lambda m, x: m.b(m.a(x).relu()), a=a, b=b), item, Canonicalize())


def _absorb_bias() -> Drawn:
    a, b = _pointwise(0.5, 0.5, bias=(9, 0.25)), filled(nn.Conv2d(2, 2, 1), 1, 1)
    return _float(Calls(lambda m, x: m.b(m.a(x).relu()), a=a, b=b), AbsorbBias(), Canonicalize())


def _small() -> nn.Module:
    """A linear whose eight weights are all drawn: the first two of a row are large and meet in one pair sum."""
    linear = nn.Linear(4, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 0.9, 0.5, 0.48], [-0.2, 0.5, 0.45, 1.0]]))
        linear.bias.zero_()
    return Calls(lambda m, x: m.linear(x).relu(), linear=linear)


def _correlated() -> Tensor:
    """Samples [32, 4] whose features go together, as in images: rounding has something to gain."""
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(3))
    return x + 2 * x.mean(1, keepdim=True) + 0.5


def _insert_qdq() -> Drawn:
    model, x = (
        Calls(lambda m, x: (m.conv(x).relu() + x).exp(), conv=filled(nn.Conv2d(2, 2, 1), 1, 1)),
        grid(2, 2, 8, 8),
    )
    before, after = captured(model, x), captured(model, x)
    plan = plan_quantization(after, TOY)
    stats = calibrate(after, [plan], [(x,)], CollectorMethod("minmax"))
    return Drawn(before, after, run_passes(after, [InsertQdq(plan, stats)]))


def _clean_qdq() -> Drawn:
    same = (0.5, 10, 0, 255, torch.uint8)

    def make() -> fx.GraphModule:
        b = HandWritten()
        pool = b(aten.max_pool2d.default, b(DQ, b(Q, b.x, *same), *same), [2, 2])
        return b.done(b(aten.relu.default, b(DQ, b(Q, b(DQ, b(Q, pool, *same), *same), *same), *same)))

    return _given(make, CleanQdq())


def _join_ranges() -> Drawn:
    return _float(_uneven(), JoinRanges(), Canonicalize(), _SPLIT_RANGES, sampled=False)


def _quantized(item: Pass, bits: int = 8, **changes: object) -> Drawn:
    """The pass on `_small`, quantized for the toy target with `changes`."""
    x, spec = _correlated(), dataclasses.replace(TOY, **changes)  # type: ignore[arg-type]
    lowered = lower(_small(), x, spec=spec, weight_bits=bits)
    ctx = PassContext(spec, batches=lambda: ((part,) for part in x.split(8)), reference=lowered.float_gm)
    return _given(lambda: lower(_small(), x, spec=spec, weight_bits=bits).gm, item, ctx)


def _fix_saturation() -> Drawn:
    pairs = {"avx2": lambda step, weight: in_one_row(by_output(step, weight)), "vnni": None}
    return _quantized(FixSaturation("avx2"), saturation=pairs)


def _round_weights() -> Drawn:
    return _quantized(RoundWeights(), bits=3)


def _correct_bias() -> Drawn:
    return _quantized(CorrectBias(), bits=3)


def _one_linear() -> fx.GraphModule:
    """A quantized linear as it comes from elsewhere."""
    x = torch.arange(8, dtype=torch.int32).reshape(2, 4)
    weight = torch.arange(-4, 4, dtype=torch.int32).reshape(2, 4)
    scales = qint8(torch.tensor([0.5, 0.25]))
    return OpCase(
        aten.linear.default, [x], [quint8(0.1, 3)], quint8(0.2, 9), (), weight, scales, torch.ones(2)
    ).graph()


def _shift_activations() -> Drawn:
    def make() -> fx.GraphModule:
        qp = QParams((0.1,), (-5,), -128, 127, torch.int8)
        return OpCase(aten.relu.default, [torch.arange(8, dtype=torch.int32).reshape(2, 4)], [qp], qp).graph()

    return _given(make, ShiftActivations(), PassContext(target=fbgemm.spec))


EXAMPLES: Mapping[str, Callable[[], Drawn]] = {
    "canonicalize": _canonicalize,
    "fold-batch-norm": _fold_batch_norm,
    "fuse-activation": _fuse_activation,
    "fold-dead-channels": _fold_dead_channels,
    "smooth-activations": _smooth_activations,
    "equalize-layers": _equalize_layers,
    "equalize-activations": _equalize_activations,
    "split-ranges": _split_ranges,
    "split-outliers": _split_outliers,
    "absorb-bias": _absorb_bias,
    "insert-qdq": _insert_qdq,
    "clean-qdq": _clean_qdq,
    "fix-saturation": _fix_saturation,
    "round-weights": _round_weights,
    "correct-bias": _correct_bias,
    "join-ranges": _join_ranges,
    "shift-activations": _shift_activations,
    "strip-qdq": lambda: _given(_one_linear, StripQdq()),
}
