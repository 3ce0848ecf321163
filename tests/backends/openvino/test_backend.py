"""What the openvino backend plans, says of its runtime, and verifies."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from differential import check_everywhere
from fxedge.backends.openvino import backend
from fxedge.compiler.pipeline.verify import verify_bundle
from small_compile import compile_small
from torch import Tensor, nn
from torch.nn import functional


@pytest.mark.skipif(backend.missing() is not None, reason="openvino is not installed")
def test_a_bundle_compiles_and_verifies(tmp_path: Path) -> None:
    report = compile_small(tmp_path / "bundle", ("openvino",))
    assert report.failures == {}
    checked = report.results["openvino"].checked
    assert max(node.worst for node in checked.nodes) <= 1
    assert verify_bundle(tmp_path / "bundle").passed


@pytest.mark.skipif(backend.missing() is not None, reason="openvino is not installed")
def test_floats_stay_float32(tmp_path: Path) -> None:
    """bfloat16 would be off by about 1e-2."""
    from fxedge.compiler.ir.capture import capture
    from fxedge.compiler.ir.shapes import annotate

    torch.manual_seed(0)
    net, x = nn.Conv2d(3, 8, 3), torch.randn(1, 3, 16, 16)
    gm = capture(net, (x,))
    annotate(gm)
    path = tmp_path / "float.onnx"
    backend.emit_float(gm, path)
    found = torch.from_numpy(backend.load(path).run([x.numpy()])[0])
    torch.testing.assert_close(found, net(x).detach(), rtol=1e-4, atol=1e-5)


class Late(nn.Module):
    """A sum behind an activation, which the region of its convolution does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.silu(self.wide(x))
        return self.last(functional.silu(self.narrow(x)) + x)


@pytest.mark.skipif(backend.missing() is not None, reason="openvino is not installed")
def test_what_lies_between_a_layer_and_a_sum_is_rounded(tmp_path: Path) -> None:
    """Integers are the same whether they are shown or not."""
    torch.manual_seed(0)
    assert check_everywhere(Late(), [(torch.randn(2, 3, 24, 24),)], tmp_path, ["openvino"])["openvino"] < 0.1
