"""Canonicalize as a whole; each form's cases are in `forms`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from fxedge.compiler.ir.dump import dump
from fxedge.passes import Canonicalize
from support import Calls, apply, inputs
from torch import nn

IMAGE = (2, 4, 6, 6)


def test_batch_size_needs_no_shape_arithmetic() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    gm, _ = apply(model, inputs((2, 5, 8)), Canonicalize())
    assert "sym_size" not in dump(gm)
    assert [line for line in dump(gm).splitlines() if "reshape" in line][-2:] == [
        "%25 = reshape.default(%24, [-1, 8])",
        "%27 = reshape.default(%26, [5, -1, 8])",
    ]
    (other,) = inputs((7, 5, 8))
    torch.testing.assert_close(gm(other), model(other), rtol=1e-4, atol=1e-5)


def test_a_tuple_output_keeps_its_structure() -> None:
    model = Calls(lambda m, x: {"same": x.clone(), "pair": (F.relu6(x), x)})
    gm, _ = apply(model, inputs(IMAGE), Canonicalize())
    assert dump(gm).splitlines()[-1] == "return {same: %0, pair: (%1, %0)}"
