from pathlib import Path

import pytest
from fxedge.compiler.pipeline.driver import CompileReport
from small_compile import compile_small


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompileReport]:
    """The small model compiled for onnx: the bundle (not to be changed) and the report."""
    out = tmp_path_factory.mktemp("compiled") / "bundle"
    return out, compile_small(out)
