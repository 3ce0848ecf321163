"""Every small model, whatever its shape, keeps the promises of `ModelEntry`."""

import pytest
import torch
from fxedge.models import get, names
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

SMALL = names(full_size=False)


def _outputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.inference_mode():
        return pytree.tree_leaves(model(*inputs))


@pytest.mark.parametrize("name", SMALL)
def test_is_in_eval_mode_finite_and_the_same_every_time(name):
    entry = get(name)
    model = entry.factory()
    assert not any(module.training for module in model.modules())
    outputs = _outputs(model, entry.example_inputs())
    again = _outputs(entry.factory(), entry.example_inputs())
    assert all(torch.equal(one, two) for one, two in zip(outputs, again, strict=True))
    assert all(output.isfinite().all() and output.std() > 1e-3 for output in outputs)
    if entry.classes is not None:
        assert outputs[0].shape == (2, entry.classes)


@pytest.mark.parametrize("name", SMALL)
def test_batch_is_free_and_rows_are_independent(name):
    entry = get(name)
    model, inputs = entry.factory(), entry.example_inputs()
    assert {len(tensor) for tensor in inputs} == {2}
    three = _outputs(model, tuple(torch.cat([tensor, tensor[:1]]) for tensor in inputs))
    for output, longer in zip(_outputs(model, inputs), three, strict=True):
        torch.testing.assert_close(longer, torch.cat([output, output[:1]]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_both_tracers_follow_it(name):
    entry = get(name)
    model, inputs = entry.factory(), entry.example_inputs()
    expected = _outputs(model, inputs)
    symbolic = fx.symbolic_trace(model)
    assert all(torch.equal(*pair) for pair in zip(_outputs(symbolic, inputs), expected, strict=True))
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    exported = _outputs(program.module(), inputs)
    assert all(torch.equal(*pair) for pair in zip(exported, expected, strict=True))


@pytest.mark.parametrize("name", names())
def test_description_is_one_sentence(name):
    description = get(name).description
    assert description.endswith(".")
    assert "\n" not in description


@pytest.mark.parametrize("name", SMALL)
def test_batch_norms_are_not_the_identity(name):
    for module in get(name).factory().modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor.std() > 0.01


def test_shared_weights_shares():
    graph = fx.symbolic_trace(get("shared_weights").factory()).graph
    assert [node.target for node in graph.find_nodes(op="call_module", target="conv")] == ["conv", "conv"]


def test_concat_branches_have_unequal_ranges():
    entry = get("concat")
    seen: list[Tensor] = []
    model = entry.factory()
    model.after.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    _outputs(model, entry.example_inputs())
    points, threes, loud, pooled = seen[0].split([4, 6, 4, 4], 1)
    assert loud.max() > 3 * max(points.max(), threes.max(), pooled.max())


def test_depthwise_channels_have_unequal_ranges():
    weight = get("depthwise").factory().get_parameter("block.1.0.weight")
    ranges = weight.abs().amax((1, 2, 3))
    assert ranges.max() > 30 * ranges.min()
