import pytest
import torch
from fxedge.compiler.ir.errors import InputError
from fxedge.compiler.quant.layer_options import LayerOptions
from fxedge.compiler.quant.plan import plan_quantization
from fxedge.compiler.quant.qparams import QSpec
from support import Calls
from torch import nn
from toy_target import TOY, captured


def test_choices_over_others():
    usual = LayerOptions(weight_bits=4, per_tensor=True)
    assert LayerOptions().over(usual) == usual
    assert LayerOptions(per_tensor=False, weight_range="mse").over(usual) == LayerOptions(
        weight_bits=4, per_tensor=False, weight_range="mse"
    )


def test_a_weight_keeps_the_narrower_range():
    full = QSpec(-128, 127, torch.int8, symmetric=True, per_channel=True)
    assert LayerOptions().weight_spec(full) == full
    assert LayerOptions(weight_bits=8).weight_spec(full) == full
    assert LayerOptions(weight_bits=3).weight_spec(full) == QSpec(-3, 3, torch.int8, True, True)
    narrow = QSpec(-7, 7, torch.int8, symmetric=True)
    assert LayerOptions(weight_bits=6, per_tensor=False).weight_spec(narrow) == narrow


@pytest.mark.parametrize("bits", [1, 9, 0])
def test_bits_that_there_are_not(bits: int):
    with pytest.raises(InputError) as caught:
        LayerOptions(weight_bits=bits)
    assert str(caught.value) == f"Weights cannot have {bits} bits; allowed: 2 to 8."
    gm = captured(Calls(lambda m, x: m.a(x), a=nn.Conv2d(4, 4, 1)), torch.randn(2, 4, 4, 4))
    with pytest.raises(InputError, match=rf"^Weights cannot have {bits} bits"):
        plan_quantization(gm, TOY, weight_bits=bits)
