"""EqualizeActivations: the graph before and after, what int8 gains by it, where it does nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fxedge.backends import registry
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.constants import constants, get_constant
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.passes import PassContext, PassResult, Skip, run_passes
from fxedge.compiler.ir.shapes import annotate
from fxedge.compiler.pipeline.calibration import collect
from fxedge.compiler.pipeline.lower import lower, plan_targets, prepare
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.quant.layer_options import LayerOptions
from fxedge.compiler.quant.plan import plan_quantization
from fxedge.compiler.quant.simulate import simulate
from fxedge.passes import Canonicalize, EqualizeActivations, FoldBatchNorm
from hypothesis import given, settings
from hypothesis import strategies as st
from random_nets import RandomNet
from support import Calls, graph, inputs
from torch import Tensor, fx, nn
from torch.nn import functional as F

X = inputs((16, 3, 8, 8))[0]
APART = torch.tensor([0.01, 0.02, 0.1, 0.5, 1, 4, 9, 20]).view(-1, 1, 1, 1)


def _uneven(act: object = F.silu) -> Calls:
    """Channels of very different range around an activation; what the small ones hold counts as much."""
    torch.manual_seed(0)
    model = Calls(
        lambda m, x: m.b(act(m.a(x))),  # type: ignore[operator]
        a=nn.Conv2d(3, 8, 1),
        b=nn.Conv2d(8, 4, 1),
    )
    with torch.no_grad():
        model.a.weight *= APART  # type: ignore[union-attr, operator]
        model.a.bias *= APART.flatten()  # type: ignore[union-attr, operator]
        model.b.weight /= APART.view(1, -1, 1, 1)  # type: ignore[union-attr, operator]
    return model


def _captured(model: nn.Module) -> fx.GraphModule:
    gm = capture(model.eval(), (X,))
    run_passes(gm, [Canonicalize(), FoldBatchNorm()])
    return gm


def _run(gm: fx.GraphModule, item: EqualizeActivations | None = None, samples: Tensor | None = X) -> PassResult:
    item, examples = item or EqualizeActivations(goal=60.0), () if samples is None else (samples,)
    result = run_passes(gm, [item], PassContext(example_inputs=examples))["equalize-activations"]
    assert result.rolled_back is None
    return result


def test_an_activation_gets_gains_on_both_sides() -> None:
    gm = _captured(_uneven())
    expected, readers = gm(X), get_constant(gm, "b.weight")
    result = _run(gm)
    assert dump(gm) == graph("""
        %0 = input x
        %1 = conv2d.default(%0, @a.weight, @a.bias, [1, 1], [0, 0], [1, 1], 1)
        %2 = mul.Tensor(%1, @silu_channel_gain)
        %3 = silu.default(%2)
        %4 = mul.Tensor(%3, @silu_channel_gain_1)
        %5 = conv2d.default(%4, @b.weight, @b.bias, [1, 1], [0, 0], [1, 1], 1)
        return %5""")
    before, after, weight = (
        get_constant(gm, name) for name in ("silu_channel_gain", "silu_channel_gain_1", "b.weight")
    )
    assert before is not None
    assert after is not None
    assert weight is not None
    assert readers is not None
    assert before.shape == after.shape == (8, 1, 1)
    assert before[7] > 100 * before[0]  # the layer before gives channels of one size
    torch.testing.assert_close(weight * after.flatten().view(1, -1, 1, 1), readers)
    torch.testing.assert_close(gm(X), expected, rtol=1e-5, atol=1e-5)
    assert (result.changes, result.skipped, [note.node for note in result.notes]) == (2, (), ["x"])
    assert result.notes[0].reason.endswith(" dB of signal over noise without gains")


def test_a_second_run_changes_nothing() -> None:
    gm = _captured(_uneven())
    _run(gm)
    text = dump(gm)
    assert _run(gm) == PassResult(0)
    assert dump(gm) == text


@pytest.mark.parametrize("target", ["onnx", "x86", "tflite", "openvino"])
def test_what_int8_gains_by_it(target: str, tmp_path: Path) -> None:
    backend = registry.get(target)
    if (missing := backend.missing()) is not None:
        pytest.skip(missing)
    options = CompileOptions(recipe="fast")
    noise = []
    for passes in ([], [EqualizeActivations()]):
        model = prepare(_uneven().eval(), (X[:2],), options, batches=lambda: iter([(X,)]))
        run_passes(model.gm, passes, PassContext(example_inputs=(X,)))
        plans = plan_targets(model, [backend.spec], options)
        stats = collect(model, plans, [(X,)], options)
        program = lower(model, backend.spec, plans[target], stats, options).program
        path = tmp_path / f"{len(passes)}{Path(backend.artifact).suffix}"
        backend.emit(program, path)
        (found,) = (torch.from_numpy(value) for value in backend.load(path).run([X.numpy()]))
        (simulated,) = simulate(program, (X,)).outputs.values()
        wanted = model.gm(X)
        torch.testing.assert_close(found, simulated, rtol=0, atol=0.02 * float(wanted.abs().max()))
        noise.append(float((found - wanted).square().mean() / wanted.var()))
    assert noise[1] < noise[0] / 30


def test_the_plan_leaves_gains_and_their_activation_float() -> None:
    model = prepare(_uneven().eval(), (X[:2],), CompileOptions(recipe="fast"), batches=lambda: iter([(X,)]))
    _run(model.gm)
    plan = plan_targets(model, [registry.get("onnx").spec], CompileOptions())["onnx"]
    assert plan.floats == (
        Skip("mul_tensor", "it gives each channel a scale of its own at an activation"),
        Skip("silu", "its inputs are float"),
        Skip("mul_tensor_1", "it gives each channel a scale of its own at an activation"),
    )


def test_linears_have_their_channels_last() -> None:
    torch.manual_seed(0)
    model = Calls(lambda m, x: m.b(F.gelu(m.a(x))), a=nn.Linear(8, 6), b=nn.Linear(6, 4))
    model.a.weight.data *= torch.tensor([0.01, 0.1, 1, 1, 9, 20]).view(-1, 1)  # type: ignore[union-attr, operator]
    gm = capture(model.eval(), (x := inputs((4, 5, 8))[0],))
    expected = gm(x)
    assert _run(gm, samples=x).changes == 2
    gain = get_constant(gm, "gelu_channel_gain")
    assert gain is not None
    assert gain.shape == (6,)
    torch.testing.assert_close(gm(x), expected, rtol=1e-5, atol=1e-5)


# --- what is left alone ---------------------------------------------------------------------------------------


def test_little_noise_needs_no_gain() -> None:
    gm = _captured(_uneven())
    text = dump(gm)
    result = _run(gm, EqualizeActivations(goal=-20.0))
    assert (result.changes, dump(gm)) == (0, text)
    (skip,) = result.skipped
    assert skip.reason.startswith("int8 is expected to leave the outputs ")
    assert skip.reason.endswith(" dB of signal over noise: no activation needs a gain")


def test_an_activation_that_saves_little_gets_none() -> None:
    model = Calls(
        lambda m, x: m.d(F.silu(m.c(m.u(x)))), u=_uneven(), c=nn.Conv2d(4, 4, 1), d=nn.Conv2d(4, 2, 1, bias=False)
    )
    for layer in (model.c, model.d):  # all channels are alike
        nn.init.ones_(layer.weight)  # type: ignore[union-attr, arg-type]
    nn.init.ones_(model.c.bias)  # type: ignore[union-attr, arg-type]
    gm = _captured(model)
    result = _run(gm)
    assert result.changes == 2
    assert result.skipped == (Skip("silu_1", "silu_1 saves little noise for what gains cost"),)
    assert [node.args[0].name for node in gm.graph.nodes if node.name.startswith("mul")] == ["conv2d", "silu"]


@pytest.mark.parametrize("act", [F.relu, F.relu6, F.leaky_relu, F.hardsigmoid, torch.tanh])
def test_what_factors_pass_or_what_has_one_range_needs_no_gain(act: object) -> None:
    assert _run(_captured(_uneven(act))) == PassResult(0)


def test_without_samples() -> None:
    reason = "without samples nothing is known of what channels hold"
    assert _run(_captured(_uneven()), samples=None) == PassResult(0, (Skip("silu", reason),))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.u(x).argmax(1),
        lambda m, x: m.u(x).topk(2, 1).indices,
        lambda m, x: (y := m.u.a(x), F.silu(y)),
        lambda m, x: m.u(x) * 0.0,
    ],
)
def test_outputs_that_no_factor_reaches(function: object) -> None:
    gm = _captured(Calls(function, u=_uneven()))  # type: ignore[arg-type]
    text = dump(gm)
    result = _run(gm)
    assert (result.changes, dump(gm)) == (0, text)
    assert len(result.skipped) == 1


def test_weights_stay_where_no_gain_is_worth_it() -> None:
    """Factors of other channels are the business of equalize-layers."""
    model = Calls(
        lambda m, x: m.d(F.silu(m.c(m.u(x)))), u=_uneven(F.relu), c=nn.Conv2d(4, 4, 1), d=nn.Conv2d(4, 2, 1)
    )
    for layer in (model.c, model.d):
        nn.init.ones_(layer.weight)  # type: ignore[union-attr, arg-type]
    nn.init.ones_(model.c.bias)  # type: ignore[union-attr, arg-type]
    gm = _captured(model)
    before = {name: value.clone() for name, value in constants(gm).items()}
    assert _run(gm).changes == 0
    assert before.keys() == constants(gm).keys()
    assert all(torch.equal(value, before[name]) for name, value in constants(gm).items())


def test_layers_that_stay_float_have_no_noise() -> None:
    gm = _captured(_uneven())
    everything = EqualizeActivations(goal=60.0, layers={"*": LayerOptions(quantize=False)})
    assert _run(gm, everything) == PassResult(0, (Skip("x", "the noise expected of quantization is 0"),))


def test_a_light_layer_between_activations_needs_no_gains() -> None:
    """It will be float as they are."""
    model = Calls(
        lambda m, x: m.u.b(F.silu(m.d(F.silu(m.u.a(x))))), u=_uneven(), d=nn.Conv2d(8, 8, 3, padding=1, groups=8)
    )
    gm = _captured(model)
    expected = gm(X)
    assert _run(gm).changes == 2
    assert [node.name for node in gm.graph.nodes if node.op == "call_function"] == [
        "conv2d",
        "mul_tensor",
        "silu",
        "conv2d_1",
        "silu_1",
        "mul_tensor_3",
        "conv2d_2",
    ]
    torch.testing.assert_close(gm(X), expected, rtol=1e-5, atol=1e-5)
    annotate(gm)
    plan = plan_quantization(gm, registry.get("onnx").spec)
    assert list(plan.ops) == ["conv2d", "conv2d_2"]


def test_a_layer_is_not_light_beside_an_activation_without_gains() -> None:
    """The depthwise layer evens out what it reads, so the activation behind it needs no gains: the layer runs on
    integers, and its rows share one scale, for which the gains before it must be chosen."""
    model = Calls(
        lambda m, x: m.u.b(F.silu(m.d(F.silu(m.u.a(x))))), u=_uneven(), d=nn.Conv2d(8, 8, 3, padding=1, groups=8)
    )
    with torch.no_grad():
        model.u.a.weight.copy_(model.u.a.weight[-1:] / APART[-1] * APART)  # type: ignore[union-attr, operator]
        model.u.a.bias.zero_()  # type: ignore[union-attr, operator]
        model.d.weight.copy_(model.d.weight[:1] / APART)  # type: ignore[union-attr, operator]
        model.d.bias.zero_()  # type: ignore[union-attr, operator]
        model.u.b.weight.fill_(0.3)  # type: ignore[union-attr, operator]
    gm = _captured(model)
    result = _run(gm, EqualizeActivations(per_tensor_weights=True, goal=60.0))
    assert [skip.node for skip in result.skipped if "saves little" in skip.reason] == ["silu_1"]
    annotate(gm)
    plan = plan_quantization(gm, registry.get("onnx").spec)
    assert "conv2d_1" in plan.ops
    rows = get_constant(gm, "d.weight").abs().amax((1, 2, 3))
    assert rows.max() / rows.min() < 10  # 2000 and more before


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), length=st.integers(1, 14), per_tensor=st.booleans())
def test_random_nets_keep_their_function(seed: int, length: int, per_tensor: bool) -> None:
    net = RandomNet(seed, length).eval()
    examples = net.examples(3)
    gm = capture(net, examples)
    run_passes(gm, [Canonicalize(), FoldBatchNorm()])
    item = EqualizeActivations(per_tensor_weights=per_tensor, goal=200.0)
    result = run_passes(gm, [item], PassContext(example_inputs=examples))["equalize-activations"]
    assert result.rolled_back is None
