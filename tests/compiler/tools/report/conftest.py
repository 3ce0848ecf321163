from pathlib import Path

import pytest
from small_compile import compile_small


@pytest.fixture(scope="session")
def explained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model for onnx and x86 with its last layer in float, explained; written without a report."""
    out = tmp_path_factory.mktemp("report") / "bundle"
    compile_small(out, ("onnx", "x86"), keep_float=("linear",), explain=True, isa="avx2")
    return out
