import pytest
import torch
from fxedge.passes.splitting.parts import split_parts
from hypothesis import given
from hypothesis import strategies as st

STEP = torch.tensor(0.25)


def test_halves_are_half_a_step_apart() -> None:
    parts = split_parts(torch.tensor([1.75, -1.0, 0.1]), 2, STEP)
    assert parts[0].tolist() == pytest.approx([0.8125, -0.4375, 0.05])
    assert parts[1].tolist() == pytest.approx([0.9375, -0.5625, 0.05])


@given(seed=st.integers(0, 2**31), parts=st.integers(2, 9), exponent=st.floats(-4, 1))
def test_parts_add_up_to_the_number_and_their_integers_to_its_integer(
    seed: int, parts: int, exponent: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(200, generator=generator) * 10 ** (4 * torch.rand(200, generator=generator) - 3)
    step = torch.tensor(10.0**exponent)
    found = split_parts(value, parts, step)
    assert len(found) == parts
    assert torch.equal(torch.stack(found).double().sum(0), value.double())
    integers = value.double() / step.double()
    clear = ((integers - integers.floor() - 0.5).abs() > 1e-3 + 1e-6 * integers.abs()) & (integers.abs() < 1e5)
    rounded = torch.stack([torch.round(part / step) for part in found]).sum(0)
    assert torch.equal(rounded[clear], torch.round(value / step)[clear])
    largest = torch.stack(found).abs().amax(0)
    allowed = value.abs() / parts + step * (parts - 1) / (2 * parts)
    assert (largest <= allowed * (1 + 1e-6)).all()


def test_a_step_for_each_row() -> None:
    value = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    low, high = split_parts(value, 2, torch.tensor([[0.5], [1.0]]))
    assert (high - low).tolist() == [[0.25, 0.25], [0.5, 0.5]]


def test_no_step_gives_equal_parts() -> None:
    parts = split_parts(torch.tensor([3.0, -6.0]), 3, torch.tensor(0.0))
    assert [part.tolist() for part in parts] == [[1.0, -2.0]] * 3


def test_the_smallest_numbers() -> None:
    value = torch.tensor([1.4e-45, -1.2e-38, 0.0])
    for parts in (2, 3, 4):
        assert torch.equal(sum(split_parts(value, parts, STEP)), value)
