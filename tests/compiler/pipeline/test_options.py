import dataclasses

import pytest
from fxedge.compiler.pipeline.options import CompileOptions


def test_defaults_are_those_of_the_command_line():
    options = CompileOptions()
    assert options.calibration is None
    assert (options.recipe, options.tracer, options.dynamic_axes) == ("default", "export", (0,))
    assert (options.golden_samples, options.parity_samples, options.timed_runs, options.threads) == (4, 64, 20, 1)
    assert options.float_artifact
    assert not options.per_tensor_weights
    assert options.isa == "safe"
    assert (options.weight_bits, options.weight_range, options.layers) == (8, "minmax", {})
    assert options.split_ratio is None


def test_options_are_a_value():
    assert CompileOptions() == CompileOptions()
    with pytest.raises(dataclasses.FrozenInstanceError):
        CompileOptions().recipe = "other"  # type: ignore[misc]
