import pytest
import torch
from fxedge.passes.rounding.gptq import gram, output_error, round_by_hessian
from torch import Tensor


def some_integers(*shape: int, most: int = 255) -> Tensor:
    return torch.randint(-most, most + 1, shape, generator=torch.Generator().manual_seed(0)).float()


def test_the_hessian_is_exact():
    """Sums of 255 · 255 over 600 rows are beyond what float32 adds up; 255 · 254 + … makes them odd."""
    rows = torch.full((2, 600, 3), 255.0)
    rows[:, ::2, 1] = -254.0
    expected = rows.double().transpose(1, 2) @ rows.double()
    assert int(expected[0, 0, 0]) > 2**24
    assert torch.equal(gram([rows[:, :400], rows[:, 400:]]), expected)


@pytest.mark.parametrize(
    ("rows", "inputs", "most"), [(300, 600, 255), (5001, 70, 255), (5001, 70, 20), (1, 40, 9)]
)
def test_the_hessian_of_many_inputs_is_symmetric_and_whole(rows: int, inputs: int, most: int):
    """Few rows, many that are taken by parts, many whose sums are small enough to take at once."""
    integers = some_integers(1, rows, inputs, most=most)
    integers[0, :, 0] = most
    expected = integers.double().transpose(1, 2) @ integers.double()
    assert torch.equal(gram([integers]), expected)


def rounded_as_published(hessian: Tensor, real: Tensor, low: int, high: int) -> Tensor:
    """Algorithm 1 of the paper for one group, column by column: the inverse of what is left of H for each."""
    real, left = real.clone(), list(hessian.diagonal().argsort(descending=True, stable=True).tolist())
    rounded = torch.empty_like(real)
    while left:
        inverse = torch.linalg.inv(hessian[left][:, left])
        first, *later = left
        rounded[first] = real[first].round().clamp(low, high)
        real[later] -= inverse[0, 1:, None] * (real[first] - rounded[first]) / inverse[0, 0]
        left = later
    return rounded


def test_weights_are_rounded_as_published():
    """In blocks of 64 columns, by one triangular factor: the same integers."""
    rows = some_integers(2, 400, 150)
    real = torch.randn(2, 150, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 40
    hessian, start = gram([rows]), real.round().clamp(-127, 127)
    found = round_by_hessian(hessian, real, start, -127, 127)
    for group in range(2):
        damped = hessian[group] + 0.01 * hessian[group].diagonal().mean() * torch.eye(150, dtype=torch.float64)
        expected = rounded_as_published(damped, real[group], -127, 127)
        assert torch.equal(found[group], expected)
    assert (output_error(hessian, found - real) < output_error(hessian, start - real)).all()
