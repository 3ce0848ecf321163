import torch
from fxedge.compiler.ir.passes import PassContext, PassResult, run_passes
from fxedge.compiler.quant.channel_stats import ChannelStat, ChannelStats
from fxedge.passes.fold_batch_norm import FoldBatchNorm
from support import Calls, inputs
from torch import nn
from toy_target import captured


def test_tables_are_independent():
    stat = ChannelStat(torch.zeros(2), torch.ones(2))
    first, second = ChannelStats(), ChannelStats()
    first.by_weight["conv.weight"] = stat
    assert second.by_weight == {}
    assert first.by_weight["conv.weight"] is stat


def test_a_folded_batch_norm_leaves_the_statistics_of_its_output():
    """After the norm, channel c has mean `bias[c]` and standard deviation `|weight[c]|`."""
    norm = nn.BatchNorm2d(3).eval()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, -3.0, 0.5]))
        norm.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
    model = Calls(lambda m, x: m.bn(m.conv(x)), conv=nn.Conv2d(3, 3, 1), bn=norm)
    (x,) = inputs((2, 3, 4, 4))
    gm, ctx = captured(model, x), PassContext(channel_stats=ChannelStats())
    assert run_passes(gm, [FoldBatchNorm()], ctx)["fold-batch-norm"] == PassResult(1)
    (weight,) = (str(n.target) for n in gm.graph.nodes if n.op == "get_attr" and "weight" in str(n.target))
    stat = ctx.channel_stats.by_weight[weight]
    torch.testing.assert_close(stat.mean, torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(stat.std, torch.tensor([2.0, 3.0, 0.5]))
