"""Capture: every kind of model ends in the same graph, and the model given stays as it was."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fxedge import models
from fxedge.compiler.ir.capture import capture, input_names
from fxedge.compiler.ir.constants import constants
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.nodes import describe, flat_outputs
from support import Calls, Calls2, graph, inputs
from torch import Tensor, fx, nn

IMAGE = (2, 3, 4, 4)
CONV_RELU = """
    %0 = input input
    %1 = conv2d.default(%0, @0.weight, @0.bias)
    %2 = relu.default(%1)
    return %2"""


def _conv_relu() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)).eval()


@pytest.mark.parametrize("name", models.names(full_size=False))
def test_both_tracers_give_the_same_graph(name: str) -> None:
    entry = models.get(name)
    exported = capture(entry.factory(), entry.example_inputs())
    traced = capture(entry.factory(), entry.example_inputs(), tracer="symbolic")
    assert dump(traced) == dump(exported)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(models.names()) - set(models.names(full_size=False))))
def test_both_tracers_give_the_same_graph_at_full_size(name: str) -> None:
    entry = models.get(name)
    graphs = {dump(capture(entry.factory(), entry.example_inputs(), tracer=t)) for t in ("export", "symbolic")}
    assert len(graphs) == 1


@pytest.mark.parametrize("name", models.names(full_size=False))
def test_the_graph_computes_what_the_model_does_for_any_batch(name: str) -> None:
    entry = models.get(name)
    model, example = entry.factory(), entry.example_inputs()
    gm = capture(model, example)
    larger = tuple(torch.cat([tensor, tensor[:1]]) for tensor in example)
    with torch.no_grad():
        expected = torch.utils._pytree.tree_leaves(model(*larger))
        actual = torch.utils._pytree.tree_leaves(gm(*larger))
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_every_kind_of_input_ends_in_one_graph(tmp_path: Path) -> None:
    model, example = _conv_relu(), inputs(IMAGE)
    program = torch.export.export(model, example, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, tmp_path / "model.pt2")
    kinds = [model, fx.symbolic_trace(model), program, tmp_path / "model.pt2", str(tmp_path / "model.pt2")]
    kinds.append(capture(model, example))
    for kind in kinds:
        gm = capture(kind, example)
        assert dump(gm) == graph(CONV_RELU)
        torch.testing.assert_close(gm(*example), model(*example), rtol=0, atol=0)


def test_pt2_from_memory_is_an_exported_program() -> None:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(_conv_relu(), inputs(IMAGE)), buffer)
    buffer.seek(0)
    assert dump(capture(torch.export.load(buffer), inputs(IMAGE))) == graph(CONV_RELU)


def test_training_model_is_captured_in_eval_mode_and_keeps_its_flags() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    model[1].eval()
    gm = capture(model, inputs(IMAGE))
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert dump(gm) == graph("""
        %0 = input input
        %1 = conv2d.default(%0, @0.weight, @0.bias)
        %2 = batch_norm.default(%1, @1.weight, @1.bias, @1.running_mean, @1.running_var, False, 0.1, 1e-05, False)
        %3 = dropout.default(%2, 0.5, False)
        return %3""")


def test_flags_come_back_when_the_capture_fails() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(4, 4))
    with pytest.raises(Exception, match="could not be captured"):
        capture(model, inputs((2, 3)))
    assert all(module.training for module in model.modules())


def test_weights_are_shared_and_the_model_is_not_changed() -> None:
    model = _conv_relu()
    gm = capture(model, inputs(IMAGE))
    assert constants(gm)["0.weight"].data_ptr() == model[0].weight.data_ptr()
    assert isinstance(model[0].weight, nn.Parameter)


def test_shared_module_is_one_constant() -> None:
    gm = capture(Calls(lambda m, x: m.c(m.c(x)), c=nn.Conv2d(3, 3, 1)), inputs(IMAGE))
    weight = next(node for node in gm.graph.nodes if node.target == "c.weight")
    assert len(weight.users) == 2


def test_tied_weights_are_one_constant() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    gm = capture(nn.Sequential(first, second), inputs((2, 4)))
    assert dump(gm) == graph("""
        %0 = input input
        %1 = linear.default(%0, @0.weight, @0.bias)
        %2 = linear.default(%1, @0.weight, @1.bias)
        return %2""")


def test_dict_output_with_two_inputs() -> None:
    model = Calls2(lambda m, x, y: {"sum": x + y, "parts": [x * 2, (y, None)]})
    gm = capture(model, inputs((2, 3), (2, 3)))
    assert dump(gm) == graph("""
        %0 = input x
        %1 = input y
        %2 = add.Tensor(%0, %1)
        %3 = mul.Tensor(%0, 2)
        return {sum: %2, parts: (%3, (%1))}""")
    assert list(flat_outputs(gm)) == ["sum", "parts_0", "parts_1"]
    x, y = inputs((5, 3), (5, 3))
    assert torch.equal(gm(x, y)["sum"], x + y)


def test_one_tensor_given_for_two_inputs_stays_two_inputs() -> None:
    x = torch.randn(2, 3)
    gm = capture(Calls2(lambda m, a, b: a - 2 * b), (x, x))
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.equal(gm(a, b), a - 2 * b)


def test_tuple_output() -> None:
    gm = capture(Calls(lambda m, x: (x + 1, x)), inputs((2, 3)))
    assert dump(gm).splitlines()[-1] == "return (%1, %0)"
    assert list(flat_outputs(gm)) == ["output_0", "output_1"]


def test_variadic_forward() -> None:
    class Variadic(nn.Module):
        def forward(self, *values: Tensor) -> Tensor:
            return values[0] + values[1]

    assert dump(capture(Variadic(), inputs((2, 3), (2, 3)))).splitlines()[-2] == "%2 = add.Tensor(%0, %1)"


def test_example_of_one_sample_leaves_the_batch_free() -> None:
    model = Calls(lambda m, x: x.flatten(1))
    gm = capture(model, inputs((1, 3, 2)))
    assert gm(*inputs((5, 3, 2))).shape == (5, 6)


def test_static_capture_fixes_the_batch() -> None:
    model = Calls(lambda m, x: x.reshape(2, 12))
    assert "reshape.default(%0, [2, 12])" in dump(capture(model, inputs((2, 3, 4)), dynamic_axes=()))


def test_module_paths_and_lines_survive() -> None:
    gm = capture(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.ReLU()), inputs(IMAGE))
    calls = [node for node in gm.graph.nodes if node.op == "call_function"]
    assert [describe(node) for node in calls] == ["0.0 (conv2d)", "1 (relu)"]
    assert all("forward" in node.meta["stack_trace"] for node in calls)


def test_quantized_graph_of_someone_else_is_accepted() -> None:
    from fxedge.compiler.ir.qops import DQ, Q

    def forward(module: nn.Module, x: Tensor) -> Tensor:
        return F.relu(DQ(Q(x, 0.1, 3, -128, 127, torch.int8), 0.1, 3, -128, 127, torch.int8))

    assert dump(capture(Calls(forward), inputs((2, 3)))) == graph("""
        %0 = input x
        %1 = quantized_decomposed.quantize_per_tensor.default(%0, 0.1, 3, -128, 127, int8)
        %2 = quantized_decomposed.dequantize_per_tensor.default(%1, 0.1, 3, -128, 127, int8)
        %3 = relu.default(%2)
        return %3""")


def test_input_names() -> None:
    model = Calls2(lambda m, x, y: x + y)
    program = torch.export.export(model, inputs((2, 3), (2, 3)))
    for kind in (model, program, capture(program, ())):
        assert input_names(kind) == ("x", "y")
