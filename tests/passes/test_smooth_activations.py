"""SmoothActivations: what takes up the factors, what stays and why, and what int8 gains by it."""

from __future__ import annotations

import pytest
import torch
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.passes import PassContext, PassResult, Skip, evaluate, run_passes
from fxedge.passes import Canonicalize
from fxedge.passes.smooth_activations import SmoothActivations
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Calls, apply, graph, inputs
from torch import Tensor, fx, nn
from torch.nn import functional as F
from toy_target import lower

TOKENS = (2, 5, 6)


class PreNorm(nn.Module):
    """x + down(relu(up(norm(x)))), one of the norm's channels an outlier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 8), nn.Linear(8, 6)
        with torch.no_grad():
            self.norm.weight[2], self.norm.bias[2] = 50.0, 10.0

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.relu(self.up(self.norm(x))))


class PostNorm(nn.Module):
    """A BERT layer without attention; the feed-forward's output has an outlier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.LayerNorm(6), nn.LayerNorm(6)
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)
        with torch.no_grad():
            self.first.weight[2] = 30.0
            self.down.weight[4] *= 100

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(self.down(F.gelu(self.up(y))) + y)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key, self.value = (nn.Linear(6, 6) for _ in range(3))
        self.out = nn.Linear(6, 3)
        with torch.no_grad():
            self.value.weight[1] *= 40

    def forward(self, x: Tensor) -> Tensor:
        heads = [f(x).view(-1, 5, 2, 3).transpose(1, 2) for f in (self.query, self.key, self.value)]
        weights = torch.softmax(heads[0] @ heads[1].transpose(2, 3), -1)
        return self.out((weights @ heads[2]).transpose(1, 2).reshape(-1, 5, 6))


def smoothed(
    model: nn.Module, shape: tuple[int, ...] = TOKENS, **options: object
) -> tuple[fx.GraphModule, PassResult, tuple[Tensor, ...]]:
    x = inputs(shape)
    ctx = PassContext(batches=lambda: iter([x]))
    gm, report = apply(model, x, Canonicalize(), SmoothActivations(**options), ctx=ctx)  # type: ignore[arg-type]
    again = run_passes(gm, [SmoothActivations(**options)], ctx)["smooth-activations"]  # type: ignore[arg-type]
    assert again.changes == 0
    return gm, report["smooth-activations"], x


def spread(gm: fx.GraphModule, name: str, x: tuple[Tensor, ...]) -> float:
    """The largest channel (last axis) of a value over the geometric mean of all."""
    seen: dict[str, Tensor] = {}

    class Watching(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            seen[n.name] = super().run_node(n)
            return seen[n.name]

    with torch.no_grad():
        Watching(gm).run(*x)
    largest = seen[name].abs().flatten(0, -2).amax(0)
    return float(largest.max() / largest.log().mean().exp())


def test_a_norm_and_a_linear_take_up_the_factors() -> None:
    gm, result, x = smoothed(PreNorm())
    assert dump(gm) == graph(
        """
        %0 = input x
        %1 = layer_norm.default(%0, [6], @norm.weight, @norm.bias, 1e-05, False)
        %2 = linear.default(%1, @up.weight, @up.bias)
        %3 = relu.default(%2)
        %4 = linear.default(%3, @down.weight, @down.bias)
        %5 = add.Tensor(%0, %4)
        return %5
        """
    )
    assert result == PassResult(2)
    before = capture(PreNorm(), x)
    assert spread(gm, "layer_norm", x) < 0.4 * spread(before, "layer_norm", x)


def test_linears_read_a_product_where_the_norm_feeds_a_sum_and_outliers_are_divided_back() -> None:
    gm, result, x = smoothed(PostNorm())
    assert dump(gm) == graph(
        """
        %0 = input x
        %1 = layer_norm.default(%0, [6], @first.weight, @first.bias, 1e-05, False)
        %2 = mul.Tensor(%1, @layer_norm_smoothing)
        %3 = linear.default(%2, @up.weight, @up.bias)
        %4 = gelu.default(%3)
        %5 = linear.default(%4, @down.weight, @down.bias)
        %6 = div.Tensor(%5, @linear_1_smoothing)
        %7 = add.Tensor(%6, %1)
        %8 = layer_norm.default(%7, [6], @last.weight, @last.bias, 1e-05, False)
        return %8
        """
    )
    reason = "gelu keeps its scale: gelu.default of gelu does not scale with its input"
    assert result == PassResult(2, (Skip("gelu", reason),))
    assert spread(gm, "linear_1", x) < 0.1 * spread(capture(PostNorm(), x), "linear_1", x)


def test_what_is_left_without_products_and_outliers() -> None:
    gm, result, x = smoothed(PostNorm(), multiply=False, outliers=1e4)
    assert dump(gm) == dump(smoothed_input(PostNorm(), x))
    reason = "layer_norm keeps its scale: layer_norm.default of last (layer_norm_1) does not scale with its input"
    assert result.changes == 0
    assert result.skipped[0] == Skip("layer_norm", reason.replace("layer_norm keeps", "first (layer_norm) keeps"))


def smoothed_input(model: nn.Module, x: tuple[Tensor, ...]) -> fx.GraphModule:
    gm = capture(model, x)
    run_passes(gm, [Canonicalize()])
    return gm


def test_the_value_projection_takes_up_the_factors_of_the_output_projection() -> None:
    gm, result, x = smoothed(Attention())
    assert dump(gm) == dump(smoothed_input(Attention(), x))
    assert result.changes == 1
    assert [skip.node for skip in result.skipped] == ["x"]
    weight = dict(gm.named_buffers())["value.weight"]
    assert not torch.equal(weight, Attention().value.weight)


def test_1x1_convs_are_linears() -> None:
    model = Calls(lambda m, x: m.b(F.relu(m.a(x))), a=nn.Conv2d(4, 6, 3), b=nn.Conv2d(6, 2, 1))
    _, result, _ = smoothed(model, (2, 4, 5, 5))
    assert result == PassResult(1)


@pytest.mark.parametrize(
    ("model", "node", "reason"),
    [
        (
            Calls(lambda m, x: m.b(x), b=nn.Conv2d(4, 2, 1)),
            "x",
            "x keeps its scale: the graph input x keeps its scale",
        ),
        (
            Calls(
                lambda m, x: (lambda y: m.b(y) + m.d(y))(F.relu(m.a(x))),
                a=nn.Conv2d(4, 4, 1),
                b=nn.Conv2d(4, 4, 1),
                d=nn.Conv2d(4, 4, 3, padding=1),
            ),
            "relu",
            "relu keeps its scale: d (conv2d_2), which is not a linear, reads its channels too",
        ),
        (
            Calls(
                lambda m, x: (lambda y: m.d(y + m.b(y)))(F.relu(m.a(x))),
                a=nn.Conv2d(4, 4, 1),
                b=nn.Conv2d(4, 4, 1),
                d=nn.Conv2d(4, 4, 1),
            ),
            "relu",
            "relu keeps its scale: add shares its channels and has readers of its own",
        ),
        (
            Calls(lambda m, x: m.b(F.relu6(m.a(x))), a=nn.Conv2d(4, 4, 3), b=nn.Conv2d(4, 4, 1)),
            "hardtanh_default",
            "hardtanh_default keeps its scale: hardtanh_default would need a bound for each channel",
        ),
    ],
    ids=["input", "another reader", "residual", "clamp"],
)
def test_what_stays_says_why(model: nn.Module, node: str, reason: str) -> None:
    _, result, _ = smoothed(model, (2, 4, 6, 6))
    assert Skip(node, reason) in result.skipped


def test_a_shared_weight_keeps_its_outliers() -> None:
    class Tied(PostNorm):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            z = self.last(F.linear(F.gelu(y), self.tied) + y)
            return F.linear(z, self.tied)

    model = Tied()
    model.tied = nn.Parameter(torch.randn(6, 6) * torch.tensor([1.0, 1, 1, 100, 1, 1])[:, None])
    _, result, _ = smoothed(model)
    assert Skip("linear", "linear keeps its outliers: the weight tied of linear is shared") in result.skipped


def test_without_batches_nothing_is_known() -> None:
    _, report = apply(PreNorm(), inputs(TOKENS), SmoothActivations())
    reason = "without calibration batches the largest values are not known"
    assert report["smooth-activations"] == PassResult(0, (Skip("x", reason),))


def test_int8_loses_less() -> None:
    x = inputs((8, 16, 6))
    errors = []
    for model in (PostNorm(), PostNorm()):
        gm = smoothed_input(model, x)
        if errors:
            run_passes(gm, [SmoothActivations()], PassContext(batches=lambda: iter([x])))
        (expected,) = evaluate(gm, x)
        (found,) = evaluate(lower(gm, *x).gm, x)
        errors.append(float((found - expected).square().mean().sqrt()))
    assert errors[1] < 0.7 * errors[0]


@settings(max_examples=10, deadline=None)
@given(st.floats(0.0, 1.0), st.integers(0, 5), st.sampled_from([PreNorm, PostNorm, Attention]))
def test_the_function_is_kept_for_any_alpha(alpha: float, dead: int, kind: type[nn.Module]) -> None:
    model, x = kind(), inputs(TOKENS)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.data[dead] = module.bias.data[dead] = 0.0
    expected = model(*x).detach()
    gm = smoothed_input(model, x)
    run_passes(gm, [SmoothActivations(alpha)], PassContext(batches=lambda: iter([x])))
    torch.testing.assert_close(gm(*x), expected, rtol=1e-4, atol=1e-4)


def test_networks_without_layer_norms_can_be_left_to_equalization() -> None:
    (x,) = inputs(TOKENS)
    for model, found in ((PreNorm(), 1), (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), 0)):
        gm = capture(model.eval(), (x,))
        ctx = PassContext(example_inputs=(x,), batches=lambda: [(x,)])
        changes = run_passes(gm, [SmoothActivations(norms_only=True)], ctx)["smooth-activations"].changes
        assert (changes > 0) == found
