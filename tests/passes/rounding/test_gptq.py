import torch
from fxedge.passes.rounding.gptq import gram


def test_the_hessian_is_exact():
    """Sums of 255 · 255 over 600 rows are beyond what float32 adds up; 255 · 254 + … makes them odd."""
    rows = torch.full((2, 600, 3), 255.0)
    rows[:, ::2, 1] = -254.0
    expected = rows.double().transpose(1, 2) @ rows.double()
    assert int(expected[0, 0, 0]) > 2**24
    assert torch.equal(gram([rows[:, :400], rows[:, 400:]]), expected)


def test_the_hessian_of_many_inputs_is_symmetric_and_whole():
    rows = torch.randint(-255, 256, (1, 300, 600), generator=torch.Generator().manual_seed(0)).float()
    expected = rows.double().transpose(1, 2) @ rows.double()
    assert torch.equal(gram([rows]), expected)
