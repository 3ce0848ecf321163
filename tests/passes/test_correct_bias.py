import dataclasses

import pytest
import torch
from fxedge.compiler.ir.constants import constants, set_constant
from fxedge.compiler.ir.passes import PassContext, PassResult, Skip, run_passes
from fxedge.compiler.pipeline.lower import copy_graph
from fxedge.compiler.quant.calibrate import calibrate
from fxedge.compiler.quant.channel_stats import ChannelStat, ChannelStats
from fxedge.compiler.quant.collectors import CollectorMethod
from fxedge.compiler.quant.plan import plan_quantization
from fxedge.compiler.quant.program import IntegerStep, Program, build_program
from fxedge.compiler.quant.qparams import dequantize
from fxedge.compiler.quant.simulate import simulate
from fxedge.compiler.quant.target import TargetSpec
from fxedge.passes.clean_qdq import CleanQdq
from fxedge.passes.correct_bias import CorrectBias, shrunk
from fxedge.passes.insert_qdq import InsertQdq
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Calls, graph, inputs
from torch import Tensor, fx, nn
from toy_target import TOY, TOY_INT32_BIAS, TOY_SHARED_CAT, brief, captured, grid

TARGETS = (TOY, TOY_INT32_BIAS, TOY_SHARED_CAT)


class Layers(nn.Module):
    """Grouped, transposed, strided and shared-bias convolutions, and a linear on [..., C]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 6, 3, padding=1, bias=False)
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6)
        self.twin = nn.Conv2d(6, 6, 3, stride=2, groups=2)
        self.twin.bias = self.depthwise.bias
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2)
        self.line = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twin(self.depthwise(self.first(x).relu()).relu())
        return self.line(self.up(x).permute(0, 2, 3, 1))


BEFORE_RELU = ("conv2d", "conv2d_1")  # only what is positive in float counts there
LAYERS = captured(Layers().eval(), *inputs((2, 4, 8, 8)))


def random_layers(seed: int) -> fx.GraphModule:
    """The graph of `Layers` with weights and biases of a seed."""
    gm, generator = copy_graph(LAYERS), torch.Generator().manual_seed(seed)
    for name, value in constants(gm).items():
        set_constant(gm, name, torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5)
    return gm


def quantized(float_gm: fx.GraphModule, x: Tensor, spec: TargetSpec = TOY) -> fx.GraphModule:
    """Weights of 4 bits, per tensor; ranges of `x`."""
    gm = copy_graph(float_gm)
    plan = plan_quantization(gm, spec, per_tensor_weights=True, weight_bits=4)
    stats = calibrate(gm, [plan], [(x,)], CollectorMethod("minmax"))
    run_passes(gm, [InsertQdq(plan, stats), CleanQdq()], PassContext(spec, (x,)))
    return gm


def context(float_gm: fx.GraphModule, x: Tensor, spec: TargetSpec = TOY) -> PassContext:
    return PassContext(target=spec, batches=lambda: [(part,) for part in x.split(2)], reference=float_gm)


def correct(gm: fx.GraphModule, float_gm: fx.GraphModule, x: Tensor, spec: TargetSpec = TOY) -> PassResult:
    """Correct `gm` on `x`; a second run changes nothing."""
    ctx = context(float_gm, x, spec)
    result = run_passes(gm, [CorrectBias()], ctx)["correct-bias"]
    assert run_passes(gm, [CorrectBias()], ctx)["correct-bias"].changes == 0
    return result


def layers_of(program: Program) -> list[IntegerStep]:
    return [step for step in program.steps if isinstance(step, IntegerStep) and step.weight is not None]


def layer_errors(
    gm: fx.GraphModule, float_gm: fx.GraphModule, x: Tensor, spec: TargetSpec
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Layer -> (sums of errors where they count [samples, channels], how many count, what one step of its stored
    bias is worth)."""
    program, errors = build_program(gm, spec), {}
    layers = layers_of(program)
    integers = simulate(program, [x], keep=[step.inputs[0] for step in layers]).integers
    floats = _float_values(float_gm, x)
    for step in layers:
        source = dequantize(integers[step.inputs[0]], step.in_qparams[0])
        weight = dequantize(step.weight, step.weight_qparams)
        unit = step.weight_qparams.scale_tensor() * step.in_qparams[0].scale_tensor()
        whole = spec.bias == "int32"
        bias = step.bias if step.bias is None or not whole else step.bias * unit
        attrs = {key: value for key, value in step.attrs.items() if key != "bias"}
        with torch.no_grad():
            bias = None if bias is None else bias.double()
            given = step.anchor.target(source.double(), weight.double(), bias, **attrs)
        axis = -1 if "line" in step.anchor.name else 1
        wanted = floats[step.anchor.name].movedim(axis, -1)
        bare = given if bias is None else given - bias.reshape(-1, *[1] * (0 if axis == -1 else given.ndim - 2))
        counts = usual(wanted - bare.movedim(axis, -1))
        if step.anchor.name in BEFORE_RELU:
            counts = counts * (wanted > 0)
        error = ((given.movedim(axis, -1) - wanted) * counts).flatten(1, -2).sum(1)
        unit = (unit if whole else torch.tensor(1e-6)).expand(error.shape[1])
        errors[step.anchor.name] = error, counts.flatten(1, -2).sum(1), unit
    return errors


def usual(errors: Tensor) -> Tensor:
    """How much errors [..., channels] count: less, the further they are from the channel's median."""
    away = errors - errors.flatten(0, -2).median(0).values
    return 1 / (1 + (away / (4 * away.flatten(0, -2).abs().mean(0).clamp(min=1e-30))).square())


def kept(gm: fx.GraphModule, corrected: fx.GraphModule, spec: TargetSpec, name: str) -> Tensor:
    """Channels before a relu whose bias stayed: what relu gives would have been further off."""
    before, after = (
        next(step for step in layers_of(build_program(graph, spec)) if step.anchor.name == name)
        for graph in (gm, corrected)
    )
    if after.bias is None:
        return torch.tensor(name in BEFORE_RELU)
    old = torch.zeros_like(after.bias) if before.bias is None else before.bias
    return (old == after.bias) & (name in BEFORE_RELU)


def _float_values(gm: fx.GraphModule, x: Tensor) -> dict[str, Tensor]:
    values: dict[str, Tensor] = {}

    class Keep(fx.Interpreter):
        def run_node(self, n: fx.Node):
            values[n.name] = super().run_node(n)
            return values[n.name]

    with torch.no_grad():
        Keep(gm).run(x)
    return values


@pytest.mark.parametrize("spec", TARGETS, ids=lambda spec: spec.name)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_mean_error_left_is_below_one_step_of_the_bias(spec, seed):
    """Samples all alike: their mean is no estimate, and all of it goes into the bias."""
    float_gm = random_layers(seed)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)).expand(4, -1, -1, -1).contiguous()
    gm = quantized(float_gm, x, spec)
    before = copy_graph(gm)
    assert correct(gm, float_gm, x, spec) == PassResult(5)
    for name, (error, count, step) in layer_errors(gm, float_gm, x, spec).items():
        mean = error.sum(0) / count.sum(0).clamp(min=1)
        assert bool(((mean.abs() <= 0.51 * step + 1e-6) | kept(before, gm, spec, name)).all()), name


@pytest.mark.parametrize("spec", TARGETS, ids=lambda spec: spec.name)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 1000))
def test_of_different_samples_it_is_within_their_noise(spec, seed):
    float_gm = random_layers(seed)
    x = torch.randn(16, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    gm = quantized(float_gm, x, spec)
    before = copy_graph(gm)
    correct(gm, float_gm, x, spec)
    for name, (error, count, step) in layer_errors(gm, float_gm, x, spec).items():
        total = count.sum(0).clamp(min=1)
        mean = error.sum(0) / total
        noise = (error - mean * count).std(0) * len(error) ** 0.5 / total
        small = mean.abs() <= 0.51 * step + 1.01 * noise + 1e-6
        assert bool((small | kept(before, gm, spec, name)).all()), name


def test_corrects_less_the_less_the_samples_agree():
    """Of a mean of 3 with standard error 1, one ninth is taken as noise; of one of 0.5, all of it."""
    missing = torch.tensor([[3.0, 0.5], [3.0, 0.5]], dtype=torch.float64) + torch.tensor([[1.0], [-1.0]])
    expected = torch.tensor([3 - 1 / 3, 0.0], dtype=torch.float64)
    torch.testing.assert_close(shrunk(missing, torch.ones_like(missing)), expected)


def test_a_channel_in_which_nothing_counts_is_left_alone():
    errors = torch.tensor([[0.0, 4.0], [0.0, 4.0]], dtype=torch.float64)
    weights = torch.tensor([[0.0, 2.0], [0.0, 2.0]], dtype=torch.float64)
    assert shrunk(errors, weights).tolist() == [0.0, 2.0]


X = (grid(1, 4, 16, 16) + 2).expand(2, -1, -1, -1).contiguous()  # 0 ... 255 / 64, all samples alike


def scaled(*factors: float) -> nn.Conv2d:
    """A 1x1 convolution that multiplies each channel by a factor."""
    conv = nn.Conv2d(len(factors), len(factors), 1, groups=len(factors), bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor(factors).reshape(-1, 1, 1, 1))
    return conv


ONE_LAYER = captured(Calls(lambda m, x: m.a(x), a=scaled(7.0, 7.0, 3.75, -3.25)), X)
SILU = captured(Calls(lambda m, x: nn.functional.silu(m.a(x)), a=scaled(7.0, 7.0, 3.75, -3.25)), X)
NOISE = Skip("conv2d", "its mean error is within the noise of the samples")


def test_the_graph_before_and_after():
    """On a grid of step 1, 3.75 and -3.25 become 4 and -3; the input's mean is 127.5 / 64."""
    gm = quantized(ONE_LAYER, X)
    assert brief(gm) == graph("""
        %0 = input x
        %1 = quantize(%0, 0.015625, 0, 0, 255, uint8)
        %2 = dequantize(%1, 0.015625, 0, 0, 255, uint8)
        %3 = dequantize(@a.weight_quantized, 1, 0, -7, 7, int8)
        %4 = conv2d.default(%2, %3, None, [1, 1], [0, 0], [1, 1], 4)
        %5 = quantize(%4, 0.16015625, 81, 0, 255, uint8)
        %6 = dequantize(%5, 0.16015625, 81, 0, 255, uint8)
        return %6""")
    assert run_passes(gm, [CorrectBias()], context(ONE_LAYER, X))["correct-bias"] == PassResult(1)
    assert brief(gm) == graph("""
        %0 = input x
        %1 = quantize(%0, 0.015625, 0, 0, 255, uint8)
        %2 = dequantize(%1, 0.015625, 0, 0, 255, uint8)
        %3 = dequantize(@a.weight_quantized, 1, 0, -7, 7, int8)
        %4 = conv2d.default(%2, %3, @a.bias, [1, 1], [0, 0], [1, 1], 4)
        %5 = quantize(%4, 0.16015625, 81, 0, 255, uint8)
        %6 = dequantize(%5, 0.16015625, 81, 0, 255, uint8)
        return %6""")
    bias = constants(gm)["a.bias"]
    torch.testing.assert_close(bias, torch.tensor([0.0, 0.0, -0.25, -0.25]) * 127.5 / 64, rtol=1e-3, atol=0)


def test_positions_count_by_the_slope_of_the_activation():
    """Channel 3 is -3.25 x in float and -3 x in integers: where x is large SiLU is flat, so that the error at
    large x, which has the most of the mean, hardly counts."""
    gm = quantized(SILU, X)
    correct(gm, SILU, X)
    bias = constants(gm)["a.bias"]
    assert -0.25 * 127.5 / 64 * 0.8 < float(bias[3]) < -0.02
    torch.testing.assert_close(bias[2], torch.tensor(-0.25 * 127.5 / 64), rtol=0.15, atol=0)


def test_a_token_far_off_the_others_hardly_counts():
    """Of channel 1, 3.25 x is 3 x in integers: an error of 0.25 x. One token of four has x = 100, the others 1."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[7.0], [3.25]]))
    x = torch.tensor([1.0, 100.0, 1.0, 1.0]).view(1, 4, 1).expand(4, -1, -1).contiguous()
    float_gm = captured(model, x)
    gm = quantized(float_gm, x)
    correct(gm, float_gm, x)
    tokens, step = x[0, :, 0], 100 / 255
    errors = 3.25 * tokens - 3 * torch.round(tokens / step) * step
    weights = usual(errors[:, None])[:, 0]
    expected = (errors * weights).sum() / weights.sum()
    torch.testing.assert_close(constants(gm)["0.bias"][1], expected, rtol=1e-3, atol=0)


def test_for_int32_biases():
    """One step of the bias is 1 / 64."""
    gm = quantized(ONE_LAYER, X, TOY_INT32_BIAS)
    assert correct(gm, ONE_LAYER, X, TOY_INT32_BIAS) == PassResult(1)
    assert brief(gm) == graph("""
        %0 = input x
        %1 = quantize(%0, 0.015625, 0, 0, 255, uint8)
        %2 = dequantize(%1, 0.015625, 0, 0, 255, uint8)
        %3 = dequantize(@a.weight_quantized, 1, 0, -7, 7, int8)
        %4 = dequantize(@a.bias_quantized, 0.015625, 0, -2147483648, 2147483647, int32)
        %5 = conv2d.default(%2, %3, %4, [1, 1], [0, 0], [1, 1], 4)
        %6 = quantize(%5, 0.16015625, 81, 0, 255, uint8)
        %7 = dequantize(%6, 0.16015625, 81, 0, 255, uint8)
        return %7""")
    assert constants(gm)["a.bias_quantized"].tolist() == [0, 0, -32, -32]
    (step,) = (s for s in build_program(gm, TOY_INT32_BIAS).steps if isinstance(s, IntegerStep))
    assert step.bias.dtype is torch.int32


@pytest.mark.parametrize(("spec", "suffix"), [(TOY, ""), (TOY_INT32_BIAS, "_quantized")], ids=["float32", "int32"])
def test_a_shared_bias_is_copied(spec, suffix):
    (x,) = inputs((8, 4, 8, 8))
    gm = quantized(LAYERS, x, spec)
    correct(gm, LAYERS, x, spec)
    first, second = (constants(gm)[f"depthwise.bias{s}"] for s in (suffix, f"{suffix}_1"))
    assert not torch.equal(first, second)


def test_a_layer_that_gives_float_is_corrected_too():
    class Sine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(4, 6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x).sin()

    torch.manual_seed(0)
    spec, x = dataclasses.replace(TOY, float_results=True), torch.rand(8, 4, 9, 9)
    float_gm = captured(Sine().eval(), x)
    gm = copy_graph(float_gm)
    plan = plan_quantization(gm, spec, weight_bits=4)
    stats = calibrate(gm, [plan], [(x,)], CollectorMethod("minmax"))
    run_passes(gm, [InsertQdq(plan, stats), CleanQdq()], PassContext(spec, (x,)))

    def mean_error() -> float:
        found = simulate(build_program(gm, spec), (x,)).outputs["output"]
        return float((found - float_gm(x)).mean((0, 2, 3)).abs().mean())

    before = mean_error()
    assert correct(gm, float_gm, x, spec).changes == 1
    assert mean_error() < before / 4


def test_a_layer_that_stays_float_takes_up_the_mean_error_of_what_it_reads():
    """The second layer is in float, without a bias to begin with; it reads the first one's rounded output."""
    layers = {"a": scaled(*[3.75, -3.25] * 2), "b": scaled(*[2.0] * 4)}
    float_gm = captured(Calls(lambda m, x: nn.functional.silu(m.b(m.a(x).sin())), **layers), X)
    x = X[:1].expand(4, -1, -1, -1).contiguous()
    gm = copy_graph(float_gm)
    plan = plan_quantization(gm, TOY, per_tensor_weights=True, weight_bits=4, keep_float=("conv2d_1",))
    stats = calibrate(gm, [plan], [(x,)], CollectorMethod("minmax"))
    run_passes(gm, [InsertQdq(plan, stats), CleanQdq()], PassContext(TOY, (x,)))
    assert correct(gm, float_gm, x).changes == 2
    wanted, after = _float_values(float_gm, x)["conv2d_1"], _float_values(gm, x)["conv2d_1"]
    assert constants(gm)["b.bias"].dtype is torch.float32
    before = after - constants(gm)["b.bias"].view(-1, 1, 1)
    slope = torch.sigmoid(wanted) * (1 + wanted * (1 - torch.sigmoid(wanted)))
    errors = [float((slope.square() * (value - wanted)).mean((0, 2, 3)).abs().max()) for value in (before, after)]
    assert errors[1] < errors[0] / 2  # not 0: positions count less, the further their error is from the median


def test_a_layer_that_the_float_graph_lacks_keeps_its_bias():
    other = copy_graph(ONE_LAYER)
    next(node for node in other.graph.nodes if node.name == "conv2d").name = "another"
    gm = quantized(ONE_LAYER, X)
    skipped = Skip("conv2d", "the float graph has no layer of this name")
    assert run_passes(gm, [CorrectBias()], context(other, X))["correct-bias"] == PassResult(0, (skipped,))


def test_a_float_layer_that_reads_nothing_rounded_is_left_alone():
    float_gm = captured(
        Calls(lambda m, x: m.b(m.a(x)), a=scaled(1.1, 1.2, 1.3, 1.4), b=scaled(7.0, 7.0, 7.0, 1.0)), X
    )
    gm = copy_graph(float_gm)
    plan = plan_quantization(gm, TOY, keep_float=("conv2d",))
    stats = calibrate(gm, [plan], [(X,)], CollectorMethod("minmax"))
    run_passes(gm, [InsertQdq(plan, stats), CleanQdq()], PassContext(TOY, (X,)))
    run_passes(gm, [CorrectBias()], context(float_gm, X))
    assert "a.bias" not in constants(gm)


def test_what_it_leaves_alone():
    """A mean error of 0; one within the noise of two samples that differ."""
    exact = captured(Calls(lambda m, x: m.a(x), a=scaled(7.0, 3.0, 1.0, -4.0)), X)
    assert correct(quantized(exact, X), exact, X) == PassResult(0, (NOISE,))
    differ = torch.cat([X[:1], 0 * X[:1], 0 * X[:1]])
    assert correct(quantized(ONE_LAYER, differ), ONE_LAYER, differ) == PassResult(0, (NOISE,))


def test_one_sample_is_no_estimate():
    gm = quantized(ONE_LAYER, X)
    result = run_passes(gm, [CorrectBias()], context(ONE_LAYER, X[:1]))["correct-bias"]
    assert result == PassResult(
        0, (Skip("all layers", "it takes 2 calibration samples or more to tell an error from noise"),)
    )


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("target", "no target is given, whose arithmetic the correction is for"),
        ("reference", "the float graph is not known, against which errors are measured"),
        ("batches", "there are no calibration samples to measure errors on"),
    ],
)
def test_what_it_needs(missing, reason):
    gm = quantized(ONE_LAYER, X)
    ctx = context(ONE_LAYER, X)
    setattr(ctx, missing, None)
    assert run_passes(gm, [CorrectBias()], ctx)["correct-bias"] == PassResult(0, (Skip("all layers", reason),))


TWO_LAYERS = captured(
    Calls(lambda m, x: m.b(m.a(x)), a=scaled(7.0, 3.0, 1.0, 4.0), b=scaled(7.0, 1.0, 3.75, -3.25)), X
)


@pytest.mark.parametrize("spec", TARGETS, ids=lambda spec: spec.name)
def test_the_analytic_form_is_one_for_every_target(spec):
    """The input of the second layer has mean 2; nothing is known of the first's. A second run changes nothing."""
    stats = ChannelStats({"a.weight": ChannelStat(torch.full((4,), 2.0), torch.ones(4))})
    unknown = Skip("conv2d", "the mean of its input is not known: nothing is known of the input x")
    settled = Skip("conv2d_1", "its bias makes up for the expected error as it is")
    gm, ctx = quantized(TWO_LAYERS, X, spec), PassContext(spec, reference=TWO_LAYERS, channel_stats=stats)
    passes = [CorrectBias(method="analytic")]
    assert run_passes(gm, passes, ctx)["correct-bias"] == PassResult(1, (unknown,))
    (step,) = [s for s in build_program(gm, spec).steps if isinstance(s, IntegerStep) and s.bias is not None]
    unit = step.in_qparams[0].scale[0] if spec.bias == "int32" else 1e-6
    bias = step.bias * (unit if spec.bias == "int32" else 1.0)
    torch.testing.assert_close(bias, torch.tensor([0.0, 0.0, -0.5, -0.5]), atol=0.51 * unit, rtol=0)
    assert run_passes(gm, passes, ctx)["correct-bias"] == PassResult(0, (unknown, settled))


def test_the_analytic_form_needs_statistics():
    gm = quantized(ONE_LAYER, X)
    ctx = PassContext(target=TOY, reference=ONE_LAYER, channel_stats=ChannelStats())
    reason = "no layer has batch norm statistics, from which errors could be expected"
    result = run_passes(gm, [CorrectBias(method="analytic")], ctx)["correct-bias"]
    assert result == PassResult(0, (Skip("all layers", reason),))


def test_reads_no_more_batches_than_it_may_hold():
    gm = quantized(ONE_LAYER, X)
    ctx = context(ONE_LAYER, X)
    given = []

    def batches():
        for index in range(10):
            given.append(index)
            yield (X,)

    ctx.batches = batches
    run_passes(gm, [CorrectBias(samples=6)], ctx)
    assert given == [0, 1, 2]
