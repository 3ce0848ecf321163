"""One tree of errors; the one that lists nodes says all of them at once."""

from __future__ import annotations

import pytest
from fxedge.compiler.ir import errors


def test_all_are_fxedge_errors() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 5
    assert all(issubclass(kind, errors.FxedgeError) for kind in kinds)


def test_unsupported_ops_are_listed_together() -> None:
    with pytest.raises(errors.UnsupportedOpsError) as caught:
        raise errors.UnsupportedOpsError("onnx", [("a", "sort.default", "no lowering"), ("b", "pad", "mode")])
    assert str(caught.value) == "2 op(s) cannot be lowered to onnx:\n  a sort.default: no lowering\n  b pad: mode"
    assert caught.value.reasons == (("a", "sort.default", "no lowering"), ("b", "pad", "mode"))
