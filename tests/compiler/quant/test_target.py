import dataclasses

import pytest
from fxedge.compiler.ir.ops import aten
from fxedge.compiler.quant.qparams import quantize
from fxedge.compiler.quant.target import OpRule, TargetSpec
from torch import fx
from toy_target import UINT8, WEIGHT, conv


def test_a_rule_without_options_is_exact_and_unlimited():
    rule = OpRule(conv)
    assert (rule.tolerance, rule.shared, rule.fixed, rule.fuses, rule.weight) == (
        0,
        False,
        None,
        frozenset(),
        None,
    )
    node = fx.Graph().call_function(aten.relu.default, (1,))
    assert rule.check(node) is None


def test_specs_are_values():
    first, second = (TargetSpec("t", UINT8, WEIGHT, "int32", {}, quantize) for _ in range(2))
    assert first == second
    assert dataclasses.replace(first, bias="float32") != second
    assert (first.isa, first.notes) == ((), ())
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.name = "other"
