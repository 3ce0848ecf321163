import dataclasses
import gc
import re
import weakref

import numpy as np
import pytest
import torch
from fxedge.compiler.ir.ops import aten
from fxedge.compiler.ir.passes import evaluate, run_passes
from fxedge.compiler.ir.qops import DQ, Q
from fxedge.compiler.quant import simulate as simulate_module
from fxedge.compiler.quant.program import FloatStep, IntegerStep, QuantizeStep, build_program
from fxedge.compiler.quant.simulate import reads, run_integer_step, run_node, simulate
from fxedge.passes.clean_qdq import CleanQdq
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Calls, Calls2, inputs
from torch import nn
from torch.nn import functional as F
from toy_target import TOY, TOY_INT32_BIAS, HandWritten, Lowered, brief, grid, lower

X = grid(2, 4, 8, 8)
A = (0.5, 10, 0, 255, torch.uint8)


def windows(x: np.ndarray, kernel: int, stride: int, padding: int, dilation: int) -> np.ndarray:
    """[n, c, h, w] -> [n, c, out, out, kernel, kernel], one entry at a time."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    reach = (kernel - 1) * dilation + 1
    size = (x.shape[2] - reach) // stride + 1
    out = np.empty((*x.shape[:2], size, size, kernel, kernel), dtype=x.dtype)
    for i in range(size):
        for j in range(size):
            rows, columns = i * stride, j * stride
            out[:, :, i, j] = x[:, :, rows : rows + reach : dilation, columns : columns + reach : dilation]
    return out


def reference_conv(step: IntegerStep, integers: np.ndarray) -> np.ndarray:
    """The toy target's convolution in numpy: int64 sums, then float64."""
    attrs, weight = step.attrs, step.weight.numpy().astype(np.int64)
    x = integers.astype(np.int64) - step.in_qparams[0].zero_point[0]
    view = windows(x, weight.shape[-1], attrs["stride"][0], attrs["padding"][0], attrs["dilation"][0])
    groups = attrs["groups"]
    parts = zip(np.split(view, groups, 1), np.split(weight, groups, 0), strict=True)
    total = np.concatenate([np.einsum("nchwij,ocij->nohw", v, w) for v, w in parts], 1)
    return requantized(step, total.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def requantized(step: IntegerStep, total: np.ndarray) -> np.ndarray:
    """[..., out] sums -> integers."""
    scale = np.float64(step.in_qparams[0].scale[0]) * np.array(step.weight_qparams.scale, dtype=np.float64)
    real = total * scale
    if step.bias is not None:
        bias = step.bias.double().numpy()
        real = real + (bias if step.bias.is_floating_point() else bias * scale)
    out = np.rint(real / np.float64(step.out_qparams.scale[0])) + step.out_qparams.zero_point[0]
    return np.clip(out, *step.clamp).astype(np.int32)


@pytest.mark.parametrize("spec", [TOY, TOY_INT32_BIAS])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3),
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, bias=False),
        nn.Conv2d(4, 6, 2, groups=2),
    ],
    ids=["plain", "strided", "depthwise-dilated", "grouped"],
)
def test_a_conv_equals_numpy(spec, layer):
    lowered = lower(Calls(lambda m, x: m.a(x).relu(), a=layer), X, spec=spec)
    quantize, step = lowered.program.steps[:2]
    integers = simulate(lowered.program, [X], keep=[quantize.name, step.name]).integers
    expected = reference_conv(step, integers[quantize.name].numpy())
    assert integers[step.name].dtype == torch.int32
    np.testing.assert_array_equal(integers[step.name].numpy(), expected)


@pytest.mark.parametrize("spec", [TOY, TOY_INT32_BIAS])
def test_a_linear_equals_numpy(spec):
    lowered = lower(nn.Linear(16, 5), grid(4, 8, 16), spec=spec)
    quantize, step = lowered.program.steps[:2]
    integers = simulate(lowered.program, [grid(4, 8, 16)], keep=[quantize.name, step.name]).integers
    x = integers[quantize.name].numpy().astype(np.int64) - step.in_qparams[0].zero_point[0]
    expected = requantized(step, x @ step.weight.numpy().astype(np.int64).T)
    np.testing.assert_array_equal(integers[step.name].numpy(), expected)


def test_outputs_by_name():
    model = Calls(lambda m, x: {"a": m.a(x), "b": (m.b(x), x.exp())}, a=nn.Conv2d(4, 2, 1), b=nn.Conv2d(4, 3, 1))
    lowered = lower(model, X)
    outputs = simulate(lowered.program, [X]).outputs
    assert list(outputs) == ["a", "b_0", "b_1"]
    for actual, expected in zip(outputs.values(), evaluate(lowered.float_gm, [X]), strict=True):
        torch.testing.assert_close(actual, expected, atol=0.05, rtol=0)
    assert torch.equal(outputs["b_1"], X.exp())


def test_several_inputs():
    model = Calls2(lambda m, x, y: m.a(x) + m.a(y), a=nn.Conv2d(4, 2, 1))
    first, second = inputs((2, 4, 8, 8), (2, 4, 8, 8))
    lowered = lower(model, first, second)
    actual = simulate(lowered.program, [first, second]).outputs["output"]
    torch.testing.assert_close(actual, lowered.float_gm(first, second), atol=0.1, rtol=0)
    with pytest.raises(ValueError, match=re.escape("zip() argument 2 is shorter than argument 1")):
        simulate(lowered.program, [first])


def test_another_batch_size():
    layers = {"a": nn.Conv2d(4, 4, 3), "b": nn.Linear(4, 2)}
    lowered = lower(Calls(lambda m, x: m.b(m.a(x).relu().mean((2, 3))), **layers), X)
    whole = simulate(lowered.program, [grid(6, 4, 8, 8)]).outputs["output"]
    parts = [simulate(lowered.program, [x]).outputs["output"] for x in grid(6, 4, 8, 8).split(1)]
    assert torch.equal(whole, torch.cat(parts))


def chain() -> Lowered:
    """conv -> conv -> conv."""
    layers = {name: nn.Conv2d(4, 4, 1) for name in "abc"}
    return lower(Calls(lambda m, x: m.c(m.b(m.a(x))), **layers), X)


def test_keep_returns_the_integers_asked_for():
    program = chain().program
    names = list(program.integer_values())
    assert simulate(program, [X]).integers == {}
    kept = simulate(program, [X], keep=[names[2], names[1]]).integers
    assert set(kept) == {names[1], names[2]}
    everything = simulate(program, [X], keep=names).integers
    assert torch.equal(everything[names[1]], kept[names[1]])
    assert all(value.dtype == torch.int32 for value in everything.values())


def test_forced_integers_are_replaced_after_they_are_computed():
    program = chain().program
    names = list(program.integer_values())
    free = simulate(program, [X], keep=names).integers
    forced = {names[1]: (free[names[1]] + 3).clamp(max=255).to(torch.uint8)}
    result = simulate(program, [X], keep=names, forced=forced).integers
    assert torch.equal(result[names[0]], free[names[0]])
    assert torch.equal(result[names[1]], free[names[1]])
    step = next(step for step in program.steps if step.name == names[2])
    assert torch.equal(result[names[2]], run_integer_step(step, [forced[names[1]]], step.attrs))
    assert not torch.equal(result[names[2]], free[names[2]])


def test_everything_forced_isolates_each_step():
    """A wrong integer early does not reach the next node's result, which is computed from the forced one."""
    program = chain().program
    names = list(program.integer_values())
    free = simulate(program, [X], keep=names).integers
    wrong = simulate(program, [X + 1.0], keep=names, forced=free).integers
    assert not torch.equal(wrong[names[0]], free[names[0]])
    assert all(torch.equal(wrong[name], free[name]) for name in names[1:])


def test_a_forced_output_is_the_output():
    b = HandWritten()
    program = build_program(b.done(b(Q, b.x, *A)), TOY)
    (name,) = program.integer_values()
    forced = {name: torch.tensor([7, 8], dtype=torch.uint8)}
    assert simulate(program, [torch.zeros(2)], forced=forced).outputs["output"].tolist() == [7, 8]


@pytest.mark.parametrize("argument", ["keep", "forced"])
def test_names_that_are_no_integer_values_are_refused(argument):
    program = chain().program
    value = {"keep": ["conv2d", "x"], "forced": {"x": X, "conv2d": X}}[argument]
    with pytest.raises(KeyError, match="not integer values of the program: conv2d, x"):
        simulate(program, [X], **{argument: value})


def test_values_are_freed_after_their_last_reader():
    lowered = chain()
    alive, most = [], []
    conv = TOY.ops[aten.conv2d.default].kernel

    def watched(call):
        gc.collect()
        most.append(sum(ref() is not None for ref in alive))
        result = conv(call).to(call.out_qparams.dtype)
        alive.append(weakref.ref(result))
        return result

    rule = dataclasses.replace(TOY.ops[aten.conv2d.default], kernel=watched)
    spec = dataclasses.replace(TOY, ops={**TOY.ops, aten.conv2d.default: rule})
    program = build_program(lowered.gm, spec)
    simulate(program, [X])
    assert most == [0, 1, 1]
    gc.collect()
    assert sum(ref() is not None for ref in alive) == 0


@pytest.mark.parametrize(
    ("layer", "shape", "batched"),
    [
        (nn.Conv2d(4, 6, 3), (5, 4, 8, 8), True),
        (nn.Conv2d(4, 6, 3), (4, 8, 8), False),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (5, 4, 8, 8), True),
        (nn.Linear(8, 3), (5, 6, 8), True),
    ],
    ids=["conv", "conv-without-batch", "transposed", "linear-on-rows"],
)
def test_a_layer_gives_the_same_for_few_samples_at_a_time(layer, shape, batched, monkeypatch):
    lowered = lower(layer, grid(*shape) if batched else grid(1, *shape))
    step = next(step for step in lowered.program.steps if isinstance(step, IntegerStep))
    x = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen = []

    def watched(call):
        seen.append(len(call.inputs[0]))
        return step.rule.kernel(call)

    watching = dataclasses.replace(step, rule=dataclasses.replace(step.rule, kernel=watched))
    results = []
    for at_a_time in (1, 10**9):
        monkeypatch.setattr(simulate_module, "_AT_A_TIME", at_a_time)
        results.append(run_integer_step(watching, [x], step.attrs))
    assert seen == ([1] * 5 + [5] if batched else [4, 4])
    assert results[0].dtype == step.out_qparams.dtype
    assert torch.equal(*results)


def test_the_targets_quantize_step_is_used():
    spec = dataclasses.replace(TOY, quantize=lambda x, qp: torch.full_like(x, 200, dtype=torch.int32))
    lowered = lower(Calls(lambda m, x: m.a(x), a=nn.Conv2d(4, 4, 1)), X)
    program = build_program(lowered.gm, spec)
    name = program.steps[0].name
    assert isinstance(program.steps[0], QuantizeStep)
    assert simulate(program, [X], keep=[name]).integers[name].unique().tolist() == [200]


def test_a_value_that_no_step_gives_is_named():
    lowered = lower(Calls(lambda m, x: m.a(x).exp(), a=nn.Conv2d(4, 4, 1)), X)
    step = next(step for step in lowered.program.steps if isinstance(step, FloatStep))
    (source,) = reads(step)
    with pytest.raises(KeyError, match=f"exp reads {source}, which no step before it gives"):
        run_node(lowered.gm, step.node, {})


def test_float_ops_run_in_float():
    lowered = lower(Calls(lambda m, x: m.a(x).exp(), a=nn.Conv2d(4, 4, 1)), X)
    name = lowered.program.steps[1].name
    result = simulate(lowered.program, [X], keep=[name])
    qp = lowered.program.integer_values()[name]
    real = (result.integers[name] - qp.zero_point[0]).float() * qp.scale[0]
    assert torch.equal(result.outputs["output"], real.exp())


@st.composite
def conv_nets(draw) -> nn.Module:
    """Two to four convolutions with activations, residuals, concats, pools, and a linear at the end."""
    kind = st.sampled_from(["plain", "residual", "concat", "pool", "depthwise"])
    kinds = draw(st.lists(kind, min_size=1, max_size=3))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    layers: dict[str, nn.Module] = {"stem": nn.Conv2d(3, 4, 3, padding=1)}
    channels = 4
    for index, kind in enumerate(kinds):
        groups = channels if kind == "depthwise" else 1
        layers[f"c{index}"] = nn.Conv2d(channels, channels, 3, padding=1, groups=groups)
        channels *= 2 if kind == "concat" else 1
    layers["head"] = nn.Linear(channels, 5)

    def forward(m, x):
        x = m.stem(x).relu()
        for index, kind in enumerate(kinds):
            y = getattr(m, f"c{index}")(x)
            match kind:
                case "residual":
                    x = (y + x).relu()
                case "concat":
                    x = torch.cat([y.relu(), x], 1)
                case "pool":
                    x = F.max_pool2d(y, 2)
                case _:
                    x = F.hardtanh(y, 0.0, 6.0)
        return m.head(x.mean((2, 3)))

    return Calls(forward, **layers)


@settings(max_examples=6, deadline=None)
@given(conv_nets(), st.sampled_from([TOY, TOY_INT32_BIAS]))
def test_random_conv_nets_stay_close_to_float(model, spec):
    (x,) = inputs((2, 3, 8, 8))
    lowered = lower(model, x, spec=spec)
    expected = evaluate(lowered.float_gm, [x])[0]
    actual = simulate(lowered.program, [x]).outputs["output"]
    off = (actual - expected).abs().max() / expected.abs().max()
    assert off <= 0.05
    assert lowered.plan.floats == ()
    text = brief(lowered.gm)
    assert run_passes(lowered.gm, [CleanQdq()])["clean-qdq"].changes == 0
    assert brief(lowered.gm) == text
    again = simulate(build_program(lowered.gm, spec), [x]).outputs["output"]
    assert torch.equal(again, actual)


def test_a_dequantized_constant_in_a_float_op():
    b = HandWritten()
    table = b(DQ, b.constant("t", torch.tensor([10, 14], dtype=torch.uint8)), *A)
    program = build_program(b.done(b(aten.mul.Tensor, b.x, table)), TOY)
    assert simulate(program, [torch.tensor([3.0, 4.0])]).outputs["output"].tolist() == [0.0, 8.0]
