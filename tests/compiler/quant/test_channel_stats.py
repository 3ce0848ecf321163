import pytest
import torch
from fxedge.compiler.ir.errors import CalibrationError
from fxedge.compiler.ir.passes import PassContext, PassResult, run_passes
from fxedge.compiler.quant.channel_stats import ChannelStat, ChannelStats, measure_channels
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


torch.manual_seed(0)
LAYERS = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(1, 2), nn.Linear(6, 5)).eval()
(X,) = inputs((6, 3, 8, 8))


def test_measures_channels_over_samples_and_positions_of_all_batches():
    """Uneven batches; the linear's channels are its last axis."""
    gm = captured(LAYERS, X)
    batches = [(X[:1],), (X[1:3],), (X[3:],)]
    measured = measure_channels(gm, batches, ["conv2d", "linear"], {"conv2d": 1, "linear": -1})
    with torch.no_grad():
        conv, linear = LAYERS[0](X), LAYERS(X)
    for name, values in {"conv2d": conv.transpose(0, 1).flatten(1), "linear": linear.flatten(0, 1).T}.items():
        found = measured[name]
        torch.testing.assert_close(found.mean, values.mean(1))
        torch.testing.assert_close(found.std, values.std(1, correction=0))
        torch.testing.assert_close(found.low, values.amin(1))
        torch.testing.assert_close(found.high, values.amax(1))
        assert found.count == values.shape[1]


def test_a_large_mean_does_not_hide_the_deviation():
    gm = captured(Calls(lambda m, x: x.relu()), X)
    shifted = X.double() + 1e6
    measured = measure_channels(gm, [(part,) for part in shifted.split(2)], ["x"])["x"]
    torch.testing.assert_close(measured.std, X.transpose(0, 1).flatten(1).std(1, correction=0))


@pytest.mark.parametrize(
    ("batches", "names", "error", "message"),
    [
        ([], ["conv2d"], CalibrationError, "No data to measure conv2d on; give at least one sample."),
        ([(X / 0,)], ["relu"], CalibrationError, "relu has a NaN or an infinity on the sample batches."),
        ([(X,)], ["relu", "conv9"], KeyError, "'not nodes of the graph: conv9'"),
    ],
)
def test_what_it_refuses(batches, names, error, message):
    with pytest.raises(error) as caught:
        measure_channels(captured(LAYERS, X), batches, names)
    assert str(caught.value) == message
