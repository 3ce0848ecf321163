"""FoldBatchNorm: backwards, forwards, alone; what it refuses and why; the statistics that it keeps."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.constants import get_constant
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.passes import PassContext, PassResult, Skip, run_passes
from fxedge.compiler.quant.channel_stats import ChannelStats
from fxedge.passes import Canonicalize, FoldBatchNorm
from real.nets import cifar10_resnet20
from support import Calls, apply, graph, inputs, with_random_norms
from torch import nn

IMAGE = (2, 4, 6, 6)


class Case(NamedTuple):
    name: str
    model: nn.Module
    shape: tuple[int, ...]
    expected: str
    changes: int = 1


FOLDED = [
    Case("conv1d", nn.Sequential(nn.Conv1d(4, 6, 3, bias=False), nn.BatchNorm1d(6)), (2, 4, 9), "conv1d.default"),
    Case("conv2d", nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)), IMAGE, "conv2d.default"),
    Case("grouped", nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), IMAGE, "conv2d.default"),
    Case("conv3d", nn.Sequential(nn.Conv3d(4, 6, 2), nn.BatchNorm3d(6)), (2, 4, 4, 4, 4), "conv3d.default"),
    Case(
        "up 1d",
        nn.Sequential(nn.ConvTranspose1d(4, 6, 3, 2), nn.BatchNorm1d(6)),
        (2, 4, 9),
        "conv_transpose1d.default",
    ),
    Case(
        "up grouped",
        nn.Sequential(nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), nn.BatchNorm2d(6)),
        IMAGE,
        "conv_transpose2d.input",
    ),
    Case(
        "up 3d",
        nn.Sequential(nn.ConvTranspose3d(4, 6, 2), nn.BatchNorm3d(6)),
        (2, 4, 3, 3, 3),
        "conv_transpose3d.input",
    ),
    Case("linear", nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6)), (3, 4), "linear.default"),
    Case("no affine", nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False)), IMAGE, "conv2d.default"),
    Case("before conv", nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3)), IMAGE, "conv2d.default"),
    Case(
        "before grouped", nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2)), IMAGE, "conv2d.default"
    ),
    Case("before linear", nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 6, bias=False)), (3, 4), "linear.default"),
    Case(
        "before pointwise up",
        nn.Sequential(nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 6, 1, groups=2)),
        IMAGE,
        "conv_transpose2d.input",
    ),
    Case(
        "both sides",
        nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.BatchNorm2d(6)),
        IMAGE,
        "conv2d.default",
        changes=3,
    ),
]


@pytest.mark.parametrize("case", FOLDED, ids=lambda case: case.name)
def test_folds_into_the_layer(case: Case) -> None:
    gm, report = apply(with_random_norms(case.model), inputs(case.shape), Canonicalize(), FoldBatchNorm())
    assert report["fold-batch-norm"] == PassResult(case.changes)
    assert report.max_error["fold-batch-norm"] < 1e-6
    calls = [line.partition(" = ")[2].partition("(")[0] for line in dump(gm).splitlines()[1:-1]]
    assert calls == [case.expected]


def test_weight_and_bias_keep_their_names() -> None:
    model = with_random_norms(nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU()))
    original = model[0].weight.detach().clone()
    gm, _ = apply(model, inputs(IMAGE), FoldBatchNorm())
    assert dump(gm) == graph("""
        %0 = input input
        %1 = conv2d.default(%0, @0.weight, @0.bias, [1, 1], [0, 0], [1, 1], 1)
        %2 = relu.default(%1)
        return %2""")
    bn = model[1]
    gain = bn.weight.double() / torch.sqrt(bn.running_var.double() + bn.eps)
    expected = (original.double() * gain[:, None, None, None]).float()
    assert torch.equal(get_constant(gm, "0.weight"), expected)
    assert torch.equal(model[0].weight, original), "the model given was changed"


def test_shared_bias_is_not_rewritten() -> None:
    model = with_random_norms(
        Calls(
            lambda m, x: (m.bn(nn.functional.conv2d(x, m.w, m.b)), x[:, :4, 0, 0] * m.b),
            w=torch.rand(4, 4, 1, 1),
            b=torch.rand(4),
            bn=nn.BatchNorm2d(4),
        )
    )
    gm, _ = apply(model, inputs(IMAGE), Canonicalize(), FoldBatchNorm())
    assert "@w, @w_bias," in dump(gm)
    assert torch.equal(get_constant(gm, "b"), model.b)


def _result(model: nn.Module, shape: tuple[int, ...]) -> tuple[str, PassResult]:
    gm, report = apply(with_random_norms(model), inputs(shape), Canonicalize(), FoldBatchNorm())
    return dump(gm), report["fold-batch-norm"]


def test_padding_conv_does_not_take_a_shift() -> None:
    text, result = _result(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1)), IMAGE)
    assert text == graph("""
        %0 = input input
        %1 = conv2d.default(%0, @0.folded_weight, @0.folded_bias, [1, 1], [0, 0], [1, 1], 4)
        %2 = conv2d.default(%1, @1.weight, @1.bias, [1, 1], [1, 1], [1, 1], 1)
        return %2""")
    assert result.skipped == (
        Skip(
            "batch_norm",
            "0 (batch_norm) became an op of its own: its input input_1 is an input, not a conv or linear; "
            "conv2d pads with zeros, and the batch norm shifts",
        ),
    )


def test_padding_conv_takes_a_batch_norm_without_shift() -> None:
    model = with_random_norms(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1)))
    with torch.no_grad():
        model[0].bias.zero_()
        model[0].running_mean.zero_()
    gm, report = apply(model, inputs(IMAGE), Canonicalize(), FoldBatchNorm())
    assert report["fold-batch-norm"] == PassResult(1)
    assert "folded" not in dump(gm)


def test_conv_transpose_does_not_take_a_shift_where_it_overlaps() -> None:
    text, result = _result(nn.Sequential(nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 6, 3)), IMAGE)
    assert "@0.folded_weight" in text
    assert result.skipped[0].reason.endswith(
        "conv_transpose2d overlaps its input unevenly, and the batch norm shifts"
    )


def test_conv_with_two_readers_keeps_its_weight() -> None:
    model = Calls(lambda m, x: (lambda y: y + m.bn(y))(m.conv(x)), conv=nn.Conv2d(4, 4, 3), bn=nn.BatchNorm2d(4))
    text, result = _result(model, IMAGE)
    assert text == graph("""
        %0 = input x
        %1 = conv2d.default(%0, @conv.weight, @conv.bias, [1, 1], [0, 0], [1, 1], 1)
        %2 = conv2d.default(%1, @bn.folded_weight, @bn.folded_bias, [1, 1], [0, 0], [1, 1], 4)
        %3 = add.Tensor(%1, %2)
        return %3""")
    assert result == PassResult(
        1,
        (
            Skip(
                "batch_norm",
                "bn (batch_norm) became an op of its own: conv2d has 2 users; "
                "its reader add is add.Tensor, not a conv or linear",
            ),
        ),
    )


def test_shared_weight_stays() -> None:
    model = Calls(
        lambda m, x: m.bn1(m.conv(x)) + m.bn2(m.conv(x + 1)),
        conv=nn.Conv2d(4, 4, 1),
        bn1=nn.BatchNorm2d(4),
        bn2=nn.BatchNorm2d(4),
    )
    _, result = _result(model, IMAGE)
    assert [skip.reason for skip in result.skipped] == [
        "bn1 (batch_norm) became an op of its own: the weight conv.weight of conv2d is shared; "
        "its reader add_1 is add.Tensor, not a conv or linear",
        "bn2 (batch_norm_1) became an op of its own: the weight conv.weight of conv2d_1 is shared; "
        "its reader add_1 is add.Tensor, not a conv or linear",
    ]


def test_computed_weight_stays() -> None:
    model = Calls(lambda m, x: m.bn(nn.functional.conv2d(x, x[:4, :, :1, :1].sigmoid())), bn=nn.BatchNorm2d(2))
    gm = capture(with_random_norms(model), inputs((2, 4, 6, 6)), dynamic_axes=())
    result = run_passes(gm, [FoldBatchNorm()])["fold-batch-norm"]
    assert result.skipped[0].reason == (
        "bn (batch_norm) became an op of its own: the weight of conv2d is computed, not constant; "
        "its reader output is the output, not a conv or linear"
    )


def test_sequences_have_their_channels_elsewhere() -> None:
    text, result = _result(nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(5)), (2, 5, 8))
    assert text == graph("""
        %0 = input input
        %1 = linear.default(%0, @0.weight, @0.bias)
        %2 = conv1d.default(%1, @1.folded_weight, @1.folded_bias, [1], [0], [1], 5)
        return %2""")
    assert (
        "linear does not give its channels on axis 1, where the batch norm reads them" in result.skipped[0].reason
    )


def test_lone_batch_norm_of_vectors() -> None:
    text, _ = _result(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(4)), (3, 4))
    assert text == graph("""
        %0 = input input
        %1 = relu.default(%0)
        %2 = mul.Tensor(%1, @1.folded_scale)
        %3 = add.Tensor(%2, @1.folded_shift)
        return %3""")


def test_without_running_statistics_it_stays() -> None:
    gm = capture(nn.Sequential(nn.Conv2d(4, 4, 1)).eval(), inputs(IMAGE))
    conv = next(node for node in gm.graph.nodes if node.op == "call_function")
    with gm.graph.inserting_after(conv):
        args = (conv, None, None, None, None, False, 0.1, 1e-5, False)
        bn = gm.graph.call_function(torch.ops.aten.batch_norm.default, args)
    conv.replace_all_uses_with(bn, delete_user_cb=lambda user: user is not bn)
    gm.recompile()
    assert FoldBatchNorm().run(gm, PassContext()) == PassResult(
        0, (Skip("batch_norm_default", "batch_norm_default has no running statistics"),)
    )


def test_negative_variance_is_refused() -> None:
    model = with_random_norms(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    model[1].running_var[2] = -1.0
    result = run_passes(capture(model, inputs(IMAGE)), [FoldBatchNorm()])["fold-batch-norm"]
    assert result == PassResult(
        0, (Skip("batch_norm", "1 (batch_norm) has a running variance that is not above -eps"),)
    )


def test_statistics_are_kept_by_weight_name() -> None:
    model = with_random_norms(
        nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.BatchNorm2d(6), nn.ReLU())
    )
    ctx = PassContext(channel_stats=ChannelStats())
    apply(model, inputs(IMAGE), FoldBatchNorm(), ctx=ctx)
    assert ctx.channel_stats is not None
    assert list(ctx.channel_stats.by_weight) == ["0.weight", "3.folded_weight"]
    for name, bn in (("0.weight", model[1]), ("3.folded_weight", model[3])):
        stat = ctx.channel_stats.by_weight[name]
        assert torch.equal(stat.mean, bn.bias)
        assert torch.equal(stat.std, bn.weight.abs())


def test_real_resnet20_folds_completely(shared_data: Path) -> None:
    weights = shared_data / "cifar10_resnet20" / "weights.safetensors"
    if not weights.is_file():
        pytest.skip(f"needs {weights}, which is not here")
    model = cifar10_resnet20()
    gm, report = apply(model, inputs((4, 3, 32, 32)), Canonicalize(), FoldBatchNorm())
    assert "batch_norm" not in dump(gm)
    assert report["fold-batch-norm"].skipped == ()
    assert report.max_error["fold-batch-norm"] < 1e-4
