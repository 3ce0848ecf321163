import dataclasses

import pytest
import torch
from fxedge.compiler.ir.constants import constants, get_constant, set_constant
from fxedge.compiler.ir.passes import PassContext, PassResult, Skip, run_passes
from fxedge.compiler.pipeline.lower import copy_graph
from fxedge.compiler.quant.calibrate import calibrate
from fxedge.compiler.quant.collectors import CollectorMethod
from fxedge.compiler.quant.plan import plan_quantization
from fxedge.compiler.quant.program import IntegerStep, build_program
from fxedge.compiler.quant.target import TargetSpec
from fxedge.compiler.quant.walk import walk
from fxedge.passes.clean_qdq import CleanQdq
from fxedge.passes.insert_qdq import InsertQdq
from fxedge.passes.round_weights import RoundWeights
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Calls, inputs
from torch import Tensor, fx, nn
from toy_target import TOY, TOY_INT32_BIAS, TOY_SHARED_CAT, brief, captured

TARGETS = (TOY, TOY_INT32_BIAS, TOY_SHARED_CAT)


class Layers(nn.Module):
    """Strided, grouped, dilated, depthwise and transposed convolutions, and a linear on [..., C]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 6, 3, padding=1, stride=(1, 2), bias=False)
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6, dilation=(2, 1), padding=(1, 2))
        self.grouped = nn.Conv2d(6, 8, (1, 3), groups=2)
        self.up = nn.ConvTranspose2d(
            8, 4, (3, 2), stride=2, groups=2, padding=1, output_padding=1, dilation=(1, 2)
        )
        self.line = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.depthwise(self.first(x).relu()).relu())
        return self.line(self.up(x).permute(0, 2, 3, 1))


LAYERS = captured(Layers().eval(), *inputs((2, 4, 8, 8)))
NAMES = ("conv2d", "conv2d_1", "conv2d_2", "conv_transpose2d", "linear")


def random_layers(seed: int) -> fx.GraphModule:
    """The graph of `Layers` with weights and biases of a seed."""
    gm, generator = copy_graph(LAYERS), torch.Generator().manual_seed(seed)
    for name, value in constants(gm).items():
        set_constant(gm, name, torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5)
    return gm


def quantized(float_gm: fx.GraphModule, x: Tensor, spec: TargetSpec = TOY, bits: int = 4) -> fx.GraphModule:
    """Weights of few bits on their own grid; ranges of `x`."""
    gm = copy_graph(float_gm)
    plan = plan_quantization(gm, spec, weight_bits=bits)
    stats = calibrate(gm, [plan], [(x,)], CollectorMethod("minmax"))
    run_passes(gm, [InsertQdq(plan, stats), CleanQdq()], PassContext(spec, (x,)))
    return gm


def rounded(
    gm: fx.GraphModule,
    reference: fx.GraphModule,
    x: Tensor,
    spec: TargetSpec = TOY,
    item: RoundWeights | None = None,
) -> PassResult:
    ctx = PassContext(spec, batches=lambda: ((part,) for part in x.split(2)), reference=reference)
    return run_passes(gm, [item or RoundWeights()], ctx)["round-weights"]


def samples(seed: int = 0, count: int = 8) -> Tensor:
    """Neighbouring positions and channels are correlated, as in images: rounding has something to gain."""
    x = torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    return nn.functional.avg_pool2d(x + x.mean(1, keepdim=True) * 2, 3, 1, 1)


def weights(gm: fx.GraphModule) -> dict[str, Tensor]:
    return {name: value for name, value in constants(gm).items() if value.dtype is torch.int8}


def layer_errors(gm: fx.GraphModule, reference: fx.GraphModule, x: Tensor, spec: TargetSpec) -> dict[str, Tensor]:
    """Squared error of each output of each layer, its own integer weights against the float ones, on the integers
    that it reads in `gm`."""
    program = build_program(gm, spec)
    errors = {}

    def visit(step: IntegerStep, values):
        qp, real = step.weight_qparams, get_constant(reference, str(real_of[step.anchor.name]))
        shape = [-1 if axis == qp.axis else 1 for axis in range(real.ndim)]
        off = dataclasses.replace(step, weight=real / qp.scale_tensor().reshape(shape) - step.weight, bias=None)
        centered = values[0][0].float() - step.in_qparams[0].zero_point[0]
        attrs = {key: value for key, value in step.attrs.items() if key != "bias"}
        error = step.anchor.target(centered.double(), off.weight.double(), None, **attrs)
        axis = -1 if step.anchor.name == "linear" else 1
        errors[step.anchor.name] = error.square().movedim(axis, 0).flatten(1).sum(1)
        return step

    real_of = {node.name: node.args[1].target for node in reference.graph.nodes if node.name in NAMES}
    walk(program, [(x,)], visit)
    return errors


def test_the_graph_before_and_after():
    float_gm, x = random_layers(1), samples()
    gm = quantized(float_gm, x)
    text, before = brief(gm), constants(gm)
    assert rounded(gm, float_gm, x) == PassResult(5)
    assert brief(gm) == text
    assert "@depthwise.weight_quantized" in text
    changed = {name for name, value in constants(gm).items() if not torch.equal(value, before[name])}
    assert changed == {f"{name}.weight_quantized" for name in ("first", "depthwise", "grouped", "up", "line")}
    assert rounded(gm, float_gm, x) == PassResult(0)


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**16), bits=st.sampled_from((4, 5, 6, 8)), spec=st.sampled_from(TARGETS))
def test_no_output_gets_worse_and_the_first_layer_gets_better(seed, bits, spec):
    float_gm, x = random_layers(seed), samples(seed)
    gm = quantized(float_gm, x, spec, bits)
    before = weights(gm)
    rounded(gm, float_gm, x, spec)
    limit = 2 ** (bits - 1) - 1
    assert all(value.abs().max() <= limit for value in weights(gm).values())
    after = layer_errors(gm, float_gm, x, spec)
    for name, layer in zip(NAMES, ("first", "depthwise", "grouped", "up", "line"), strict=True):
        nearest = copy_graph(gm)
        set_constant(nearest, f"{layer}.weight_quantized", before[f"{layer}.weight_quantized"])
        worst = layer_errors(nearest, float_gm, x, spec)[name]
        assert (after[name] <= worst * (1 + 1e-6)).all(), name
        if name == "conv2d":
            assert after[name].sum() < worst.sum()


def test_a_layer_that_gives_float_is_rounded_too():
    class Sine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(4, 6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x).sin()

    torch.manual_seed(0)
    spec, x = dataclasses.replace(TOY, float_results=True), samples()
    reference = captured(Sine().eval(), x)
    gm = quantized(reference, x, spec)
    before = weights(gm)
    assert rounded(gm, reference, x, spec).changes == 1
    (old,), (new,) = before.values(), weights(gm).values()
    assert not torch.equal(old, new)


def test_positions_are_drawn_by_the_seed():
    float_gm, x = random_layers(2), samples()
    results = []
    for seed in (0, 0, 1):
        gm = quantized(float_gm, x)
        ctx = PassContext(TOY, batches=lambda: ((x,),), reference=float_gm, seed=seed)
        run_passes(gm, [RoundWeights(positions=64)], ctx)
        results.append(torch.cat([value.flatten() for value in weights(gm).values()]))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_nearest_leaves_everything_as_it_is():
    float_gm, x = random_layers(0), samples()
    gm = quantized(float_gm, x)
    assert rounded(gm, float_gm, x, item=RoundWeights("nearest")) == PassResult(0)


def test_a_shared_weight_and_a_layer_unknown_to_the_float_graph_keep_their_integers():
    twice = Calls(lambda m, x: m.b(m.a(m.a(x).relu())), a=nn.Conv2d(4, 4, 3, padding=1), b=nn.Conv2d(4, 4, 1))
    float_gm, x = captured(twice.eval(), samples(count=2)), samples()
    gm = quantized(float_gm, x)
    next(node for node in float_gm.graph.nodes if node.name == "conv2d_2").name = "other"
    shared = "its weight a.weight_quantized is shared with another layer"
    assert rounded(gm, float_gm, x) == PassResult(
        0,
        (
            Skip("conv2d", shared),
            Skip("conv2d_1", shared),
            Skip("conv2d_2", "the float graph has no layer of this name and shape"),
        ),
    )


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("target", "no target is given, whose arithmetic the weights are for"),
        ("reference", "the float graph is not known, whose outputs the weights should give"),
        ("batches", "there are no calibration samples to measure outputs on"),
    ],
)
def test_what_it_cannot_do_without(missing, reason):
    float_gm, x = random_layers(0), samples()
    gm = quantized(float_gm, x)
    ctx = PassContext(TOY, batches=lambda: [(x,)], reference=float_gm)
    setattr(ctx, missing, None)
    assert run_passes(gm, [RoundWeights()], ctx)["round-weights"] == PassResult(0, (Skip("all layers", reason),))


@pytest.mark.parametrize("spec", TARGETS, ids=lambda spec: spec.name)
def test_learned_rounding_is_nearer_after_the_activation(spec):
    torch.manual_seed(5)
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.ReLU6()).eval()
    float_gm, x = captured(model, samples(count=2)), samples()
    wanted = float_gm(x)
    errors, integers = {}, {}
    for method in ("nearest", "adaround", "again"):
        gm = quantized(float_gm, x, spec)
        item = RoundWeights("nearest" if method == "nearest" else "adaround", iterations=300)
        result = rounded(gm, float_gm, x, spec, item)
        assert result == PassResult(int(method != "nearest"))
        errors[method] = (gm(x) - wanted).square().sum((0, 2, 3))
        (integers[method],) = weights(gm).values()
    assert (errors["adaround"] <= errors["nearest"] * 1.02).all()
    assert errors["adaround"].sum() < 0.8 * errors["nearest"].sum()
    assert (integers["adaround"] - integers["nearest"]).abs().max() == 1
    assert integers["adaround"].abs().max() <= 7
    assert torch.equal(integers["again"], integers["adaround"])
