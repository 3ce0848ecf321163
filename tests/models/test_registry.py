import pytest
import torch
from fxedge.models import ModelEntry, UnknownModelError, get, names, register


def test_unknown_name_names_the_close_ones():
    with pytest.raises(UnknownModelError) as caught:
        get("resnet8")
    assert str(caught.value) == "no reference model is called 'resnet8'; close: resnet18, resnet50, resnet34"


def test_unknown_name_without_close_ones_lists_all():
    with pytest.raises(UnknownModelError) as caught:
        get("??")
    assert str(caught.value) == f"no reference model is called '??'; known: {', '.join(names())}"


def test_a_name_is_taken_once():
    entry = get("residual")
    with pytest.raises(ValueError, match=r"^model 'residual' is registered twice$"):
        register(ModelEntry("residual", entry.factory, entry.example_inputs, "another"))
    assert get("residual") is entry


def test_the_awkward_shapes_are_there():
    assert names(full_size=False) == (
        "conv_bn_relu",
        "shared_weights",
        "concat",
        "residual",
        "se_block",
        "depthwise",
        "no_bias",
        "grouped_dilated",
        "multi_input",
        "conv_transpose",
        "conv1d",
        "conv3d",
        "tuple_output",
        "dict_output",
        "split_chunk",
        "lone_batch_norm",
        "inplace_relu",
        "pools",
        "activations",
        "arithmetic",
        "views",
        "matmul",
        "mlp",
        "transformer",
        "digits",
    )


def test_full_size_models_are_flagged():
    full_size = set(names()) - set(names(full_size=False))
    assert full_size == {
        "resnet18",
        "resnet34",
        "resnet50",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "mobilenet_v3_large",
    }
    assert all(get(name).full_size for name in full_size)


def test_the_random_state_of_the_caller_is_kept():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    get("residual").factory()
    get("transformer").example_inputs()
    assert torch.equal(torch.rand(2), expected)
