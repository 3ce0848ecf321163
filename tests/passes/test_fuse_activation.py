"""FuseActivation: what moves, what is dropped, what merges, and what stays with its reason."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.passes import PassResult, Skip
from fxedge.passes import Canonicalize, FuseActivation
from support import Calls, apply, graph, inputs
from torch import nn

IMAGE = (2, 4, 6, 6)


def _convs() -> dict[str, nn.Module]:
    return {"c": nn.Conv2d(4, 4, 1), "d": nn.Conv2d(4, 4, 1)}


class Case(NamedTuple):
    name: str
    model: nn.Module
    changes: int
    expected: str


CASES = [
    Case(
        "above a max pool and a view",
        Calls(lambda m, x: F.relu6(F.max_pool2d(m.c(x), 2).flatten(1)), **_convs()),
        1,
        """
        %0 = input x
        %1 = conv2d.default(%0, @c.weight, @c.bias, [1, 1], [0, 0], [1, 1], 1)
        %2 = hardtanh.default(%1, 0, 6)
        %3 = max_pool2d.default(%2, [2, 2], [2, 2], [0, 0], [1, 1], False)
        %4 = flatten.using_ints(%3, 1)
        return %4
        """,
    ),
    Case(
        "into every branch of a concat",
        Calls(lambda m, x: F.leaky_relu(torch.cat([m.c(x), m.d(x), x + 1], 1)), **_convs()),
        1,
        """
        %0 = input x
        %1 = conv2d.default(%0, @c.weight, @c.bias, [1, 1], [0, 0], [1, 1], 1)
        %2 = leaky_relu.default(%1, 0.01)
        %3 = conv2d.default(%0, @d.weight, @d.bias, [1, 1], [0, 0], [1, 1], 1)
        %4 = leaky_relu.default(%3, 0.01)
        %5 = add.Tensor(%0, 1)
        %6 = leaky_relu.default(%5, 0.01)
        %7 = cat.default([%2, %4, %6], 1)
        return %7
        """,
    ),
    Case(
        "only into the branch that needs it",
        Calls(lambda m, x: F.relu(torch.cat([torch.sigmoid(x), m.d(x)], 1)), **_convs()),
        1,
        """
        %0 = input x
        %1 = sigmoid.default(%0)
        %2 = conv2d.default(%0, @d.weight, @d.bias, [1, 1], [0, 0], [1, 1], 1)
        %3 = relu.default(%2)
        %4 = cat.default([%1, %3], 1)
        return %4
        """,
    ),
    Case(
        "one branch twice",
        Calls(lambda m, x: (lambda y: F.relu(torch.cat([y, y], 1)))(m.c(x)), **_convs()),
        1,
        """
        %0 = input x
        %1 = conv2d.default(%0, @c.weight, @c.bias, [1, 1], [0, 0], [1, 1], 1)
        %2 = relu.default(%1)
        %3 = cat.default([%2, %2], 1)
        return %3
        """,
    ),
    Case(
        "redundant",
        Calls(
            lambda m, x: (
                F.relu(torch.sigmoid(x))
                + F.leaky_relu(F.relu6(x))
                + F.relu(x.softmax(1).permute(0, 1, 3, 2)).mean()
            )
        ),
        3,
        """
        %0 = input x
        %1 = sigmoid.default(%0)
        %2 = hardtanh.default(%0, 0, 6)
        %3 = add.Tensor(%1, %2)
        %4 = softmax.int(%0, 1)
        %5 = permute.default(%4, [0, 1, 3, 2])
        %6 = mean.default(%5)
        %7 = add.Tensor(%3, %6)
        return %7
        """,
    ),
    Case(
        "nested clamps",
        Calls(
            lambda m, x: (F.relu6(F.relu(m.c(x))), m.d(x).clamp(-1, 2).clamp(0, 5), x.clamp(-1).clamp(-2, 1)),
            **_convs(),
        ),
        3,
        """
        %0 = input x
        %1 = conv2d.default(%0, @c.weight, @c.bias, [1, 1], [0, 0], [1, 1], 1)
        %2 = hardtanh.default(%1, 0, 6)
        %3 = conv2d.default(%0, @d.weight, @d.bias, [1, 1], [0, 0], [1, 1], 1)
        %4 = hardtanh.default(%3, 0, 2)
        %5 = hardtanh.default(%0, -1, 1)
        return (%2, %4, %5)
        """,
    ),
    Case(
        "clamps that never meet",
        Calls(lambda m, x: m.c(x).clamp(-3, -1).clamp(0, 6), **_convs()),
        1,
        """
        %0 = input x
        %1 = conv2d.default(%0, @c.weight, @c.bias, [1, 1], [0, 0], [1, 1], 1)
        %2 = hardtanh.default(%1, 0, 0)
        return %2
        """,
    ),
    Case(
        "two clamps over a concat",
        Calls(lambda m, x: F.relu6(F.relu(torch.cat([m.c(x), m.d(x)], 1)).permute(0, 2, 3, 1)), **_convs()),
        4,
        """
        %0 = input x
        %1 = conv2d.default(%0, @c.weight, @c.bias, [1, 1], [0, 0], [1, 1], 1)
        %2 = hardtanh.default(%1, 0, 6)
        %3 = conv2d.default(%0, @d.weight, @d.bias, [1, 1], [0, 0], [1, 1], 1)
        %4 = hardtanh.default(%3, 0, 6)
        %5 = cat.default([%2, %4], 1)
        %6 = permute.default(%5, [0, 2, 3, 1])
        return %6
        """,
    ),
    Case(
        "useless after bounds by channel",
        Calls(
            lambda m, x: F.hardtanh(F.relu(torch.minimum(F.relu(m.c(x)), m.u)), 0.0, 2.5),
            u=torch.tensor([0.5, 2.0, 2.5, 0.0]).reshape(4, 1, 1),
            **_convs(),
        ),
        2,
        """
        %0 = input x
        %1 = conv2d.default(%0, @c.weight, @c.bias, [1, 1], [0, 0], [1, 1], 1)
        %2 = relu.default(%1)
        %3 = clamp.Tensor(%2, None, @u)
        return %3
        """,
    ),
    Case(
        "useful after bounds by channel",
        Calls(
            lambda m, x: F.hardtanh(F.relu(torch.maximum(m.c(x), m.u)), 0.0, 2.5),
            u=torch.tensor([0.5, 2.0, -0.5, 3.0]).reshape(4, 1, 1),
            **_convs(),
        ),
        1,
        """
        %0 = input x
        %1 = conv2d.default(%0, @c.weight, @c.bias, [1, 1], [0, 0], [1, 1], 1)
        %2 = clamp.Tensor(%1, @u, None)
        %3 = hardtanh.default(%2, 0, 2.5)
        return %3
        """,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_graph(case: Case) -> None:
    gm, report = apply(case.model, inputs(IMAGE), Canonicalize(), FuseActivation())
    assert dump(gm) == graph(case.expected)
    assert report["fuse-activation"].changes == case.changes
    assert report.max_error["fuse-activation"] == 0.0


@pytest.mark.parametrize("activation", [F.relu, F.relu6, F.leaky_relu, F.hardswish, F.silu])
def test_beside_its_producer_nothing_happens(activation: object) -> None:
    model = Calls(lambda m, x: (activation(m.c(x)), activation(x + 1), activation(x @ x)), **_convs())  # type: ignore[operator]
    _, report = apply(model, inputs(IMAGE), Canonicalize(), FuseActivation())
    assert report["fuse-activation"] == PassResult(0)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda m, x: (lambda y: F.relu(y) + y)(m.c(x)), "conv2d has 2 users"),
        (lambda m, x: (lambda y: F.relu(y.flatten(1)) + y.mean())(m.c(x)), "conv2d has 2 users"),
        (lambda m, x: (lambda y: F.relu(y) + y)(m.c(x).flatten(1)), "flatten has 2 users"),
        (lambda m, x: F.relu(x), "x is an input, which activations do not fuse into"),
        (lambda m, x: F.relu(x.mean(2)), "mean is mean.dim, which activations do not fuse into"),
        (lambda m, x: F.relu(torch.cat([m.c(x), x], 1)), "x is an input, which activations do not fuse into"),
        (
            lambda m, x: F.leaky_relu(F.max_pool2d(m.c(x), 2), -0.5),
            "max_pool2d is max_pool2d.default, which activations do not fuse into",
        ),
        (lambda m, x: F.relu(m.c(x)[0]), "select is select.int, which activations do not fuse into"),
    ],
)
def test_what_stays_says_why(function: object, reason: str) -> None:
    model = Calls(function, **_convs())  # type: ignore[arg-type]
    gm, report = apply(model, inputs(IMAGE), Canonicalize(), FuseActivation())
    node = next(n.name for n in gm.graph.nodes if "relu" in n.name)
    assert report["fuse-activation"] == PassResult(0, (Skip(node, f"{node} stays where it is: {reason}"),))


def test_hardswish_does_not_pass_a_max_pool() -> None:
    model = Calls(lambda m, x: F.hardswish(F.max_pool2d(m.c(x), 2)), **_convs())
    gm, report = apply(model, inputs(IMAGE), Canonicalize(), FuseActivation())
    assert dump(gm).splitlines()[-2] == "%3 = hardswish.default(%2)"
    assert report["fuse-activation"].changes == 0
