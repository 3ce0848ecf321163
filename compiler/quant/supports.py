"""Support checks that several targets' rules share: why a node must stay float, or None."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from ..ir.ops import OPS, bound_args
from ..ir.shapes import recorded_shape
from ..ir.sizes import ShapeUnknown
from .target import Support


def all_of(*checks: Support) -> Support:
    """The first reason that any of `checks` gives."""
    return lambda node: next((reason for check in checks if (reason := check(node)) is not None), None)


def with_known_shapes(check: Callable[[fx.Node], str | None]) -> Support:
    """`check`, with an unknown shape as a reason."""

    def reason(node: fx.Node) -> str | None:
        try:
            return check(node)
        except ShapeUnknown as error:
            return str(error)

    return reason


def rank(*allowed: int) -> Support:
    """The input has one of these numbers of axes."""

    def check(node: fx.Node) -> str | None:
        shape = recorded_shape(node.args[0])
        if shape is None:
            return "its input's shape is not known"
        wanted = " or ".join(map(str, allowed))
        return None if len(shape) in allowed else f"its input has {len(shape)} axes, the kernel takes {wanted}"

    return check


def batched(node: fx.Node) -> str | None:
    """Convolutions take inputs with a batch axis only."""
    shape = recorded_shape(node.args[0])
    expected = OPS[node.target].spatial + 2  # type: ignore[index]
    return "its input has no batch axis" if shape is not None and len(shape) != expected else None


def matrix(node: fx.Node) -> str | None:
    """Linear layers take no vectors."""
    shape = recorded_shape(node.args[0])
    return "its input is a vector" if shape is not None and len(shape) < 2 else None


def two_tensors(node: fx.Node) -> str | None:
    return None if isinstance(bound_args(node)["other"], fx.Node) else "the other operand is a number"


def plain_sum(node: fx.Node) -> str | None:
    """A sum or difference of two tensors, neither scaled."""
    return "alpha is not 1" if bound_args(node)["alpha"] != 1 else two_tensors(node)


def one_output(node: fx.Node) -> str | None:
    """An adaptive pool over everything."""
    size = bound_args(node)["output_size"]
    return None if set(size if isinstance(size, (list, tuple)) else [size]) == {1} else "output size is not 1"


def image_mean(node: fx.Node) -> str | None:
    """A mean over height and width, of an input with four axes."""
    args = bound_args(node)
    if args["dtype"] is not None:
        return "the mean changes the dtype"
    axes = sorted(axis % 4 for axis in args["dim"] or ())
    return None if axes == [2, 3] else "the mean is not over height and width"


def growing_pad(node: fx.Node) -> str | None:
    """No pad cuts, and none depends on a size."""
    pads = bound_args(node)["pad"]
    whole = all(isinstance(side, int) and side >= 0 for side in pads)
    return None if whole else "a pad is negative or symbolic"


def fixed_arguments(node: fx.Node) -> str | None:
    """No argument but the first depends on a size."""
    symbolic = any(isinstance(value, fx.Node) for value in list(node.args)[1:])
    return "a bound is symbolic" if symbolic else None
