import errno
import os
import subprocess
import sys

import pytest
import typer
from fxedge.compiler.ir.errors import BundleError, InputError, VerificationError
from fxedge.compiler.tools import exits
from fxedge.compiler.tools.exits import Terminated, report_exception
from fxedge.models.checkpoints import CheckpointError
from fxedge.models.registry import UnknownModelError


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (InputError("no such data"), 2, "no such data"),
        (BundleError("in the way"), 2, "in the way"),
        (CheckpointError("no such file"), 2, "no such file"),
        (UnknownModelError("no model"), 2, "no model"),
        (VerificationError("2 LSB"), 1, "2 LSB"),
        (typer.BadParameter("not a number"), 2, "Invalid value: not a number. See fxedge --help."),
        (KeyboardInterrupt(), 130, "interrupted; nothing was written."),
        (typer.Abort(), 130, "interrupted; nothing was written."),
        (Terminated(), 143, "ended by SIGTERM; nothing was written."),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/x"),
            2,
            "out/x: No space left on device. Free some space or choose another place.",
        ),
        (
            PermissionError(errno.EACCES, os.strerror(errno.EACCES), "weights.pt"),
            2,
            "weights.pt: Permission denied. Check its permissions.",
        ),
        (OSError("strange"), 2, "strange."),
    ],
)
def test_expected_errors_are_one_paragraph(
    error: BaseException, status: int, message: str, capsys: pytest.CaptureFixture[str]
):
    assert report_exception(error) == status
    assert capsys.readouterr() == ("", f"error: {message}\n")


@pytest.mark.parametrize("error", [ValueError("oops"), RuntimeError("oops")])
def test_a_bug_shows_its_traceback(error: Exception, capsys: pytest.CaptureFixture[str]):
    assert report_exception(error) == exits.BUG == 70
    said = capsys.readouterr().err.splitlines()
    assert said[-2].endswith("Error: oops")
    assert said[-1] == "error: this is a bug in fxedge; please report it with the lines above."


def test_sigterm_unwinds_like_ctrl_c():
    # in a process of its own: signals reach main threads alone, and a test may run in another
    script = """
import signal
from fxedge.compiler.tools.exits import Terminated, sigterm_unwinds

before = signal.getsignal(signal.SIGTERM)
try:
    with sigterm_unwinds():
        signal.raise_signal(signal.SIGTERM)
except Terminated:
    print("unwound", signal.getsignal(signal.SIGTERM) is before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "unwound True\n"), done.stderr
