import dataclasses

import pytest
import torch
from fxedge.compiler.quant.program import IntegerStep, float_layers, layers
from fxedge.compiler.quant.qparams import dequantize
from fxedge.compiler.quant.simulate import simulate
from fxedge.compiler.quant.walk import FloatWalk, first_samples, samples_within, walk
from support import inputs
from torch import nn
from toy_target import TOY, captured, lower

torch.manual_seed(0)
MODEL = nn.Sequential(
    nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(64, 5)
).eval()
X = inputs((4, 3, 8, 8))


def batches():
    return [(part,) for part in X[0].split(2)]


def test_visits_each_layer_once_with_the_integers_that_the_simulator_gives():
    program = lower(MODEL, *X).program
    seen = {}

    def visit(step, values):
        seen[step.anchor.name] = torch.cat(list(values[0])).to(torch.int32)
        return step

    assert walk(program, batches(), visit).steps == program.steps
    assert list(seen) == ["conv2d", "conv2d_1", "linear"]
    integers = simulate(program, X, keep=[step.inputs[0] for step in layers(program)]).integers
    for step in layers(program):
        assert torch.equal(seen[step.anchor.name], integers[step.inputs[0]])


def test_later_layers_see_what_a_visit_changed():
    program = lower(MODEL, *X).program
    read = {}

    def silence_the_first(step, values):
        read[step.anchor.name] = torch.cat(list(values[0]))
        if step.anchor.name == "conv2d":
            return dataclasses.replace(step, weight=torch.zeros_like(step.weight), bias=None)
        return step

    changed = walk(program, batches(), silence_the_first)
    assert read["conv2d_1"].unique().numel() == 1
    outputs = simulate(changed, X).outputs["output"]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(*simulate(program, X).outputs["output"][:2])


def test_layers_that_give_float_are_visited_and_run_as_changed():
    spec = dataclasses.replace(TOY, float_results=True)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Sine(), nn.Conv2d(4, 4, 3)).eval()
    program = lower(model, *X, spec=spec).program
    assert not any(isinstance(step, IntegerStep) for step in program.steps)
    assert [step.anchor.name for step in layers(program)] == ["conv2d", "conv2d_1"]
    assert layers(dataclasses.replace(program, spec=TOY)) == []
    seen = {}

    def silence_the_first(step, values):
        seen[step.anchor.name] = torch.cat(list(values[0]))
        zero = torch.zeros_like(step.weight)
        return dataclasses.replace(step, weight=zero, bias=None) if step.anchor.name == "conv2d" else step

    walk(program, batches(), silence_the_first)
    (source,) = layers(program)[0].inputs
    assert torch.equal(seen["conv2d"].int(), simulate(program, X, keep=[source]).integers[source])
    assert seen["conv2d_1"].unique().numel() == 1


def test_layers_in_float_are_visited_if_asked_for_and_run_as_changed():
    program = lower(MODEL, *X, keep_float=("conv2d_1",)).program
    seen = {}

    def shift(step, values):
        seen[step.anchor.name] = torch.cat(list(values[0]))
        bias = torch.full_like(step.bias, 100.0)
        return dataclasses.replace(step, bias=bias) if step.anchor.name == "conv2d_1" else step

    walk(program, batches(), shift)
    assert list(seen) == ["conv2d", "linear"]
    before = seen["linear"]
    walk(program, batches(), shift, floats=True)
    assert list(seen) == ["conv2d", "linear", "conv2d_1"]
    (real,) = float_layers(program)["conv2d_1"].inputs
    (step,) = [step for step in program.steps if step.name == real]
    integers = simulate(program, X, keep=[step.source]).integers[step.source]
    assert torch.equal(seen["conv2d_1"], dequantize(integers, step.qparams))
    assert not torch.equal(seen["linear"], before)
    assert seen["linear"].unique().tolist() == [255]


class Sine(nn.Module):
    def forward(self, x):
        return x.sin()


def test_float_values_beside_it_are_those_of_the_graph():
    gm = lower(MODEL, *X).float_gm
    floats = FloatWalk(gm, batches(), ["conv2d", "linear"])
    with torch.no_grad():
        assert torch.equal(torch.cat(floats.value("conv2d")), MODEL[0](X[0]))
        torch.testing.assert_close(torch.cat(floats.value("linear")), MODEL(X[0]))
    with pytest.raises(KeyError, match="conv2d"):
        floats.value("conv2d")


def test_a_budget_counts_four_times_the_largest_value_of_a_sample():
    gm = lower(MODEL, *X).float_gm
    largest = 4 * 6 * 6 * 4
    assert samples_within(gm, 4 * largest * 10) == 10
    assert samples_within(gm, 1) == 1


def test_the_first_samples_come_in_their_batches():
    gm = captured(MODEL, *X)
    batches = [(torch.arange(3),), (torch.arange(3, 6),), (torch.arange(6, 9),)]
    assert [len(x) for (x,) in first_samples(gm, batches, 4)] == [3, 1]
    assert [len(x) for (x,) in first_samples(gm, batches, 5, at_once=2)] == [2, 2, 1]
    assert [len(x) for (x,) in first_samples(gm, batches, 100)] == [3, 3, 3]
    assert list(first_samples(gm, batches, 0)) == []


def test_a_graph_of_one_batch_size_gets_whole_batches():
    gm = torch.export.export(MODEL, X).module()
    batches = [(torch.arange(3),), (torch.arange(3, 6),), (torch.arange(6, 9),)]
    assert [len(x) for (x,) in first_samples(gm, batches, 4, at_once=2)] == [3, 3]
