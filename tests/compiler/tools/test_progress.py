import io

import pytest
from fxedge.compiler.ir.progress import Silent
from fxedge.compiler.tools.progress import BarProgress, LineProgress, make_progress
from rich.console import Console


@pytest.fixture(autouse=True)
def _a_capable_terminal(monkeypatch: pytest.MonkeyPatch):
    """What the terminal can do must not depend on where the tests run."""
    for name in ("TERM", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_bars_name_the_task_and_count_samples():
    stream = io.StringIO()
    with BarProgress(Console(file=stream, force_terminal=True, width=80)).track("calibrate", 10) as advance:
        advance(10)
    assert "calibrate" in stream.getvalue()
    assert "10/10" in stream.getvalue()


def test_an_unknown_number_has_no_bar():
    stream = io.StringIO()
    with BarProgress(Console(file=stream, force_terminal=True, width=80)).track("capture") as advance:
        advance(1)
    assert "capture" in stream.getvalue()
    assert "/" not in stream.getvalue()


def test_silent_without_a_terminal_and_when_quiet(monkeypatch: pytest.MonkeyPatch):
    assert isinstance(make_progress(quiet=False), Silent)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(make_progress(quiet=False), BarProgress)
    assert isinstance(make_progress(quiet=True), Silent)


def test_a_dumb_terminal_gets_a_line_for_each_task(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(make_progress(quiet=False), LineProgress)
    stream = io.StringIO()
    with LineProgress(Console(file=stream, width=80)).track("calibrate", 10) as advance:
        advance(10)
    assert stream.getvalue() == "calibrate (10) ...\n"
