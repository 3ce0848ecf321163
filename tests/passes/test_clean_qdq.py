import pytest
import torch
from fxedge.compiler.ir.ops import aten
from fxedge.compiler.ir.passes import PassResult, run_passes
from fxedge.compiler.ir.qops import DQ, DQC, QC, Q
from fxedge.passes.clean_qdq import CleanQdq
from support import graph
from torch import fx
from toy_target import HandWritten, brief

A = (0.5, 10, 0, 255, torch.uint8)
B = (0.25, 10, 0, 255, torch.uint8)
X = torch.linspace(-6, 120, 64).reshape(4, 16)


def cleaned(gm: fx.GraphModule, changes: int) -> str:
    """The graph after the pass, which must make `changes` changes, no other in a second run, and be exact."""
    before = gm(X)
    assert run_passes(gm, [CleanQdq()])["clean-qdq"] == PassResult(changes)
    assert all(torch.equal(new, old) for new, old in zip(gm(X), before, strict=True))
    text = brief(gm)
    assert run_passes(gm, [CleanQdq()])["clean-qdq"] == PassResult(0)
    assert brief(gm) == text
    return text


def test_a_pair_that_gives_back_the_same_integers_goes():
    b = HandWritten()
    first = b(DQ, b(Q, b.x, *A), *A)
    second = b(DQ, b(Q, first, *A), *A)
    third = b(DQ, b(Q, second, *A), *A)
    assert cleaned(b.done(b(aten.relu.default, third)), 2) == graph("""
        %0 = input x
        %1 = quantize(%0, 0.5, 10, 0, 255, uint8)
        %2 = dequantize(%1, 0.5, 10, 0, 255, uint8)
        %3 = relu.default(%2)
        return (%3)""")


def test_float_readers_in_between_keep_their_dequantize():
    b = HandWritten()
    first = b(DQ, b(Q, b.x, *A), *A)
    second = b(DQ, b(Q, first, *A), *A)
    assert cleaned(b.done(b(aten.exp.default, first), b(aten.relu.default, second)), 1) == graph("""
        %0 = input x
        %1 = quantize(%0, 0.5, 10, 0, 255, uint8)
        %2 = dequantize(%1, 0.5, 10, 0, 255, uint8)
        %3 = dequantize(%1, 0.5, 10, 0, 255, uint8)
        %4 = exp.default(%2)
        %5 = relu.default(%3)
        return (%4, %5)""")


def test_two_quantize_nodes_of_one_value_become_one():
    b = HandWritten()
    value = b(aten.exp.default, b.x)
    nodes = [b(DQ, b(Q, value, *A), *A) for _ in range(3)]
    assert cleaned(b.done(*nodes), 2) == graph("""
        %0 = input x
        %1 = exp.default(%0)
        %2 = quantize(%1, 0.5, 10, 0, 255, uint8)
        %3 = dequantize(%2, 0.5, 10, 0, 255, uint8)
        %4 = dequantize(%2, 0.5, 10, 0, 255, uint8)
        %5 = dequantize(%2, 0.5, 10, 0, 255, uint8)
        return (%3, %4, %5)""")


def test_the_first_of_them_in_the_graph_stays_whichever_was_made_first():
    b = HandWritten()
    late = b(Q, b.x, *A)
    with b.graph.inserting_before(late):
        early = b(Q, b.x, *A)
        read_early = b(DQ, early, *A)
    gm = b.done(read_early, b(DQ, late, *A))
    cleaned(gm, 1)
    gm.graph.lint()


@pytest.mark.parametrize(
    "other",
    [
        (0.25, 10, 0, 255, torch.uint8),
        (0.5, 11, 0, 255, torch.uint8),
        (0.5, 10, 0, 127, torch.uint8),
        (0.5, 10, -128, 127, torch.int8),
    ],
)
def test_other_parameters_stay(other):
    b = HandWritten()
    first = b(Q, b.x, *A)
    gm = b.done(b(DQ, b(Q, b(DQ, first, *A), *other), *other), b(DQ, b(Q, b.x, *other), *other))
    text = brief(gm)
    assert cleaned(gm, 0) == text


def test_a_dequantize_with_other_parameters_than_its_quantize_stays():
    b = HandWritten()
    gm = b.done(b(DQ, b(Q, b(DQ, b(Q, b.x, *A), *B), *A), *A))
    text = brief(gm)
    assert cleaned(gm, 0) == text


def test_integers_of_an_input_or_a_constant_are_not_quantize_nodes():
    b = HandWritten()
    stored = b.constant("stored", torch.arange(4, dtype=torch.uint8))
    again = b(Q, b(DQ, stored, *A), *A)
    gm = b.done(b(DQ, again, *A), b.x)
    text = brief(gm)
    assert cleaned(gm, 0) == text


def test_per_channel_pairs():
    b = HandWritten()
    scales, zeros = b.constant("s", torch.full((16,), 0.5)), b.constant("z", torch.zeros(16, dtype=torch.int64))
    other = b.constant("t", torch.full((16,), 0.25))
    args = (scales, zeros, 1, -127, 127, torch.int8)
    integers = b(QC, b(DQC, b(QC, b.x, *args), *args), *args)
    different = (other, zeros, 1, -127, 127, torch.int8)
    gm = b.done(b(DQC, integers, *args), b(DQC, b(QC, b.x, *different), *different))
    assert cleaned(gm, 1).count("quantize_channel(%0") == 2


def test_an_output_that_is_an_integer():
    b = HandWritten()
    first = b(Q, b.x, *A)
    gm = b.done(b(Q, b(DQ, first, *A), *A))
    cleaned(gm, 1)
    assert gm(X)[0].dtype == torch.uint8
