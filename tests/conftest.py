"""Fixtures of the whole suite: real data beside the checkout, golden files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# Every run draws the same examples: what fails is the change's doing. `--hypothesis-profile explore` draws others.
settings.register_profile("same", derandomize=True)
settings.register_profile("explore", print_blob=True)
settings.load_profile("same")

TESTS = Path(__file__).parent
SHARED_DATA = Path(os.environ.get("FXEDGE_SHARED_DATA", TESTS.parents[1] / "shared" / "data"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the files of tests/golden")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real models and data for development; skips where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the development data in {SHARED_DATA}, which is not here")
    return SHARED_DATA


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)` compares with `tests/golden/<name>`; `--update-golden` writes it instead."""

    def check(name: str, text: str) -> None:
        path = TESTS / "golden" / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        assert path.is_file(), f"{path} does not exist; run pytest --update-golden and commit it"
        assert text == path.read_text(encoding="utf-8"), f"differs from {path}; pytest --update-golden accepts it"

    return check
