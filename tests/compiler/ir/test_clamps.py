import pytest
import torch
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.clamps import is_clamp, tensor_bounds, unusable_bounds
from fxedge.compiler.ir.ops import aten
from support import Calls, Calls2, inputs
from torch import fx
from torch.nn import functional as F

IMAGE = (2, 4, 6, 6)


def last_call(model: Calls, *shapes: tuple[int, ...]) -> fx.Node:
    gm = capture(model, inputs(*(shapes or (IMAGE,))))
    return next(node for node in reversed(gm.graph.nodes) if node.op == "call_function")


def clamp(low: torch.Tensor | None, high: torch.Tensor | None) -> Calls:
    given = {key: value for key, value in (("low", low), ("high", high)) if value is not None}
    return Calls(lambda m, x: torch.clamp(x, getattr(m, "low", None), getattr(m, "high", None)), **given)


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1), (6,), (), (4, 6, 1)])
def test_constants_that_broadcast_to_the_input_are_bounds(shape: tuple[int, ...]) -> None:
    node = last_call(clamp(None, torch.ones(shape)))
    low, high = tensor_bounds(node)
    assert low is None
    assert high is not None
    assert torch.equal(high, torch.ones(shape))
    assert unusable_bounds(node) is None
    assert is_clamp(node)


@pytest.mark.parametrize(
    ("model", "shapes", "reason"),
    [
        (
            Calls2(lambda m, x, y: torch.clamp(x, max=y)),
            (IMAGE, (2, 4, 1, 1)),
            "its bounds are computed, not constant",
        ),
        (clamp(None, torch.ones(5, 1, 4, 1, 1)), (IMAGE,), "its bounds widen its input's shape"),
        (clamp(torch.ones(4, 6, 6), None), ((2, 1, 6, 6),), "its bounds widen its input's shape"),
        (clamp(torch.ones(4, 1, 1).double(), None), (IMAGE,), "its bounds are not float32"),
    ],
)
def test_what_is_not_a_clamp_says_why(model: Calls, shapes: tuple[tuple[int, ...], ...], reason: str) -> None:
    node = last_call(model, *shapes)
    assert node.target is aten.clamp.Tensor
    assert unusable_bounds(node) == reason
    assert not is_clamp(node)


def test_an_input_of_unknown_shape() -> None:
    node = last_call(clamp(None, torch.ones(4, 1, 1)))
    del node.args[0].meta["val"]
    assert unusable_bounds(node) == "its input's shape is not known"


def test_clamps_by_numbers_are_clamps_too() -> None:
    assert is_clamp(last_call(Calls(lambda m, x: F.relu6(x + 1)))) is False  # relu6 has a normal form: hardtanh
    assert is_clamp(last_call(Calls(lambda m, x: F.hardtanh(x))))
    assert is_clamp(last_call(Calls(lambda m, x: x.clamp(max=2.0))))
    assert not is_clamp(last_call(Calls(lambda m, x: F.leaky_relu(x))))
