"""A bundle that packages are made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fxedge.backends import registry
from fxedge.compiler.tools.cli import run

TARGETS = ("tflite", "onnx")


@pytest.fixture(scope="session")
def digits_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """digits for onnx and tflite, as far as they can run here; not to be changed."""
    out = tmp_path_factory.mktemp("package") / "digits"
    usable = [name for name in TARGETS if registry.get(name).missing() is None]
    samples = ["--limit", "32", "--eval-limit", "32", "--parity-samples", "8", "--timed-runs", "0", "--no-float"]
    given = ["digits", "--target", ",".join(usable), "--recipe", "fast", *samples, "-q", "-o", str(out)]
    assert run(["compile", *given]) == 0
    return out


@pytest.fixture
def bundle_of(digits_bundle: Path) -> Callable[[str], Path]:
    """The digits bundle, if it has the target; else the test is skipped with the reason."""

    def found(target: str) -> Path:
        reason = registry.get(target).missing()
        if reason is not None:
            pytest.skip(reason)
        return digits_bundle

    return found
