import pytest
import torch
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.errors import InputError
from fxedge.compiler.pipeline.data import from_arrays
from fxedge.compiler.pipeline.fitting import fitting_batches, fixed_batch, in_batches_of, require_fit
from fxedge.compiler.pipeline.options import CompileOptions
from small_compile import small_data, small_images, small_model


def test_a_module_takes_any_number_of_samples_or_one():
    assert fixed_batch(small_model(), CompileOptions()) is None
    assert fixed_batch(small_model(), CompileOptions(dynamic_axes=())) == 1


def test_an_exported_program_says_itself_how_many():
    model = small_model().eval()
    fixed = torch.export.export(model, (small_images(3),))
    free = torch.export.export(model, (small_images(3),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    assert fixed_batch(fixed, CompileOptions()) == 3
    assert fixed_batch(free, CompileOptions()) is None


def test_batches_of_a_size():
    data = small_data()
    assert in_batches_of(data, None) is data
    assert [len(batch.inputs[0]) for batch in in_batches_of(data, 5)] == [5, 5, 2]


def failure(*inputs: torch.Tensor) -> str:
    gm = capture(small_model(), (small_images(2),))
    with pytest.raises(InputError) as caught:
        require_fit(gm, inputs, "data.npy")
    return str(caught.value)


def test_what_does_not_fit_is_named():
    advice = "check the data and the preprocessing (layout, size, dtype)"
    assert failure(torch.zeros(2, 1, 5, 6)) == (
        "data.npy has float32 [2, 1, 5, 6] as input x, but the model takes float32 [any, 1, 6, 6]: " + advice
    )
    assert failure(torch.zeros(2, 1, 6, 6, dtype=torch.uint8)) == (
        "data.npy has uint8 [2, 1, 6, 6] as input x, but the model takes float32 [any, 1, 6, 6]: " + advice
    )
    assert failure(torch.zeros(2, 36)) == (
        "data.npy has float32 [2, 36] as input x, but the model takes float32 [any, 1, 6, 6]: " + advice
    )
    assert failure(small_images(2), small_images(2)) == ("data.npy has 2 input(s), but the model takes 1: x")


def test_the_check_leaves_symbolic_sizes_symbolic():
    gm = capture(small_model(), (small_images(2),))
    require_fit(gm, (small_images(2),), "data.npy")
    (node,) = gm.graph.find_nodes(op="placeholder")
    assert not isinstance(node.meta["val"].shape[0], int)


def test_a_later_batch_is_named_by_its_first_sample():
    gm = capture(small_model(), (small_images(2),))
    data = from_arrays([small_images(4), torch.zeros(4, 1, 5, 5)])
    with pytest.raises(InputError) as caught:
        list(fitting_batches(gm, data))
    assert str(caught.value) == (
        "the given data, samples from 4, has float32 [4, 1, 5, 5] as input x, but the model takes float32 "
        "[any, 1, 6, 6]: check the data and the preprocessing (layout, size, dtype)"
    )
