import pytest
from fxedge.backends import registry
from fxedge.compiler.pipeline.best import choose_best
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.quant.collectors import CollectorMethod
from small_compile import small_data, small_model


@pytest.mark.slow
def test_tries_each_option_and_keeps_one_value_of_it():
    options, attempts = choose_best(
        small_model(), registry.get("onnx").spec, small_data(), CompileOptions(recipe="best", isa="vnni")
    )
    tried: dict[str, list[str]] = {}
    for attempt in attempts:
        tried.setdefault(attempt.option, []).append(attempt.value)
    assert tried == {
        "calibration": ["noise", "mse", "percentile:99.99", "minmax"],
        "rounding": ["gptq", "adaround"],
        "split_ratio": ["0.0", "0.02"],
    }
    for option in tried:
        kept = [attempt for attempt in attempts if attempt.option == option and attempt.kept]
        assert len(kept) == 1
        assert str(getattr(options, option)) == kept[0].value
        best = max(attempt.loss.sqnr for attempt in attempts if attempt.option == option)
        assert kept[0].loss.sqnr >= best - 0.1


def test_what_the_user_chose_is_not_searched():
    mine = CompileOptions(
        recipe="best", isa="vnni", calibration=CollectorMethod("minmax"), rounding="nearest", split_ratio=0.0
    )
    options, attempts = choose_best(small_model(), registry.get("onnx").spec, small_data(), mine)
    assert (options, attempts) == (mine, ())
