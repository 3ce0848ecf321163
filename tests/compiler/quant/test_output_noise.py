from collections.abc import Callable

import pytest
import torch
from fxedge.compiler.quant.output_noise import Tape, output_parts, random_signs, signal_power
from support import Calls, inputs
from torch import Tensor, fx, nn
from toy_target import captured

X = inputs((8, 3, 6, 6))[0]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def parts(function: Callable[..., object]) -> list[str]:
    torch.manual_seed(0)
    model = Calls(function, first=nn.Conv2d(3, 4, 1), second=nn.Conv2d(3, 4, 1))
    return [node.name for node in output_parts(captured(model, X))]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda m, x: m.first(x), ["conv2d"]),
        (lambda m, x: torch.cat([m.first(x).flatten(1), m.second(x).mean((2, 3))], 1), ["conv2d", "mean"]),
        (
            lambda m, x: torch.cat([torch.cat([m.first(x), m.second(x)], 1).flatten(2), x.flatten(2)], 1),
            ["conv2d", "conv2d_1", "x"],
        ),
        (lambda m, x: m.first(x).reshape(-1, 4, 36).transpose(1, 2).unsqueeze(1), ["conv2d"]),
        (lambda m, x: m.first(x)[:, 1:3].unsqueeze(1), ["slice_2"]),
        (lambda m, x: m.first(x).relu().flatten(1), ["relu"]),
        (lambda m, x: {"a": m.first(x), "b": (m.second(x), [x])}, ["conv2d", "conv2d_1", "x"]),
        (lambda m, x: (y := m.first(x), torch.cat([x, y], 1), y.flatten(1)), ["conv2d", "x"]),
    ],
    ids=["one", "concat", "nested concats", "views", "slice", "no view", "nested outputs", "shared"],
)
def test_outputs_are_made_of(function, expected):
    assert parts(function) == expected


def test_signs_are_normalized_by_what_varies_from_sample_to_sample():
    output = torch.tensor([[100.0, 1.0], [100.0, 3.0], [100.0, 5.0]])
    assert signal_power(output) == 4
    signs = random_signs(output.repeat(1, 50), generator())
    assert set(signs.unique().tolist()) == {-float(signs.max()), float(signs.max())}
    assert float(signs.max()) == pytest.approx((50 * 4) ** -0.5)
    assert abs(float(signs.sign().mean())) < 0.2
    assert torch.equal(signs, random_signs(output.repeat(1, 50), generator()))
    assert not torch.equal(signs, random_signs(output.repeat(1, 50), generator(1)))


def test_signs_of_a_single_sample_are_normalized_by_what_varies_within_it():
    signs = random_signs(torch.tensor([[1.0, 3.0, 5.0]]), generator())
    assert signs.abs().flatten().tolist() == pytest.approx([8**-0.5] * 3)


@pytest.mark.parametrize("output", [torch.full((3, 2), 7.0), torch.full((1, 2), 7.0), torch.tensor(7.0)])
def test_no_signs_where_nothing_varies(output):
    assert torch.equal(random_signs(output, generator()), torch.zeros_like(output))


class Net(nn.Module):
    """Not linear; two float outputs of very different power, the second in two parts, and an integer one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.apart = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(3, 4, 1)
        self.head, self.shift = nn.Linear(4, 5), nn.Parameter(torch.randn(4, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        hidden = self.second((self.first(x) + self.shift).tanh())
        pooled = hidden.mean((2, 3))
        both = torch.cat([self.head(pooled.sigmoid()), pooled], 1)
        return hidden * 1000, both, self.apart(x).argmax(1)


class Disturbed(fx.Interpreter):
    """The graph with an error added to one value."""

    def __init__(self, gm, name, error):
        super().__init__(gm)
        self.name, self.error = name, error

    def run_node(self, n):
        result = super().run_node(n)
        return result + self.error if n.name == self.name else result


def named(gm: fx.GraphModule, prefix: str) -> str:
    return next(node.name for node in gm.graph.nodes if node.name.startswith(prefix))


def test_the_mean_effect_of_an_error_is_its_noise_over_the_signal_at_the_outputs():
    gm = captured(Net().eval(), X)
    names = ["x", named(gm, "shift"), "conv2d", "tanh", "mean", "linear"]
    tape = Tape(gm, [*names, "conv2d_2"])
    tape.record((X[:3] * 2,))  # forgotten at the next one
    tape.record((X,))
    values = {name: value for name, value, _ in tape.gradients(generator())}
    assert set(values) == set(names), "conv2d_2 reaches the integer output only"
    errors = {name: torch.randn(value.shape, generator=generator(1)) * 1e-3 for name, value in values.items()}
    effects, draws, projections = dict.fromkeys(names, 0.0), generator(2), 300
    for _ in range(projections):
        for name, _, gradient in tape.gradients(draws):
            effects[name] += tape.effect(name, gradient, errors[name]) / projections
    for name, error in errors.items():
        assert effects[name] == pytest.approx(measured(gm, name, error), rel=0.2), name
    assert [name for name in names if not tape.by_sample(name)] == [names[1]]


def measured(gm: fx.GraphModule, name: str, error: Tensor) -> float:
    """Noise over signal, the mean over the three parts, summed over the samples."""
    noise = 0.0
    with torch.no_grad():
        for wanted, given in zip(float_parts(gm(X)), float_parts(Disturbed(gm, name, error).run(X)), strict=True):
            signal = (wanted - wanted.mean(0)).square().sum() / (len(X) - 1)
            noise += float((given - wanted).square().sum() / signal) / 3
    return noise


def float_parts(outputs: tuple[Tensor, ...]) -> list[Tensor]:
    return [outputs[0], outputs[1][:, :5], outputs[1][:, 5:]]


def test_without_a_float_output_nothing_has_a_gradient():
    gm = captured(Calls(lambda self, x: self.conv(x).argmax(1), conv=nn.Conv2d(3, 4, 1)), X)
    tape = Tape(gm, ["x", "conv2d"])
    tape.record((X,))
    assert list(tape.gradients(generator())) == []


def test_without_a_value_to_follow_nothing_has_a_gradient():
    tape = Tape(captured(nn.Conv2d(3, 4, 1), X), [])
    tape.record((X,))
    assert list(tape.gradients(generator())) == []
