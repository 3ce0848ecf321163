"""The installed command as a process: signals, pipes, terminals, a disk that is really full."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_compile import leftovers, write_net

CODE = "import sys; from fxedge.compiler.tools.cli import run; sys.exit(run(sys.argv[1:]))"


def start(folder: Path, *arguments: str, **named: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", CODE, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, preexec_fn=_heed_sigint, **pipes | named)  # type: ignore[call-overload]


def _heed_sigint() -> None:
    """A shell starts what it puts into the background with SIGINT ignored, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "status", "message"),
    [
        (signal.SIGINT, 130, "error: interrupted; nothing was written.\n"),
        (signal.SIGTERM, 143, "error: ended by SIGTERM; nothing was written.\n"),
    ],
)
def test_signals_leave_nothing(tmp_path: Path, number: int, status: int, message: str):
    """The data loader is where it is stopped: the temporary bundle exists by then."""
    write_net(tmp_path)
    process = start(
        tmp_path, "compile", "net.py:make", "--calib", "net.py:slow", "--target", "onnx", "-q", "-o", "b"
    )
    for _ in range(600):
        if (tmp_path / "started").exists():
            break
        time.sleep(0.05)
    assert leftovers(tmp_path) != []
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (status, "", message)
    assert leftovers(tmp_path) == []
    assert not (tmp_path / "b").exists()


def test_nobody_reads_on(tmp_path: Path):
    with start(tmp_path, "targets", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_warnings_of_libraries_stay_out(tmp_path: Path):
    path = Path(write_net(tmp_path))
    noise = 'import logging, warnings\nwarnings.warn("deprecated")\nlogging.warning("careful")\n'
    path.write_text(noise + path.read_text())
    process = start(tmp_path, "inspect", "net.py:make", "--calib", "net.py:batches", "--target", "onnx", "-q")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert "plan for onnx: 3 integer ops, 0 float" in out


def test_help_does_not_wait_for_torch(tmp_path: Path):
    code = CODE.replace("sys.exit(run(sys.argv[1:]))", "run(['--help']); sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 60 kB; skips where none may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60k", "tmpfs", place], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("target", ["onnx", "fbgemm"])
def test_a_full_disk(small_disk: Path, tmp_path: Path, target: str):
    given = [
        "digits",
        "--limit",
        "64",
        "--eval-limit",
        "64",
        "--timed-runs",
        "0",
        "-q",
        "-o",
        str(small_disk / "b"),
    ]
    process = start(tmp_path, "compile", *given, "--target", target)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    assert err == (
        f"error: The disk that holds {small_disk} is full; nothing was kept of the unfinished bundle. "
        "Free some space or choose another -o.\n"
    )
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "expected"), [("fxedge com", "compile"), ("fxedge compile --rec", "--recipe"), ("fxedge di", "diff")]
)
def test_a_shell_completes(tmp_path: Path, words: str, expected: str):
    asked = {"_FXEDGE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-m", "fxedge"], cwd=tmp_path, env=os.environ | asked, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [expected], "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_what_a_shell_reads_to_complete(tmp_path: Path, shell: str):
    asked = os.environ | {"_FXEDGE_COMPLETE": f"source_{shell}"}
    done = subprocess.run(
        [sys.executable, "-m", "fxedge"], cwd=tmp_path, env=asked, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"_FXEDGE_COMPLETE=complete_{shell}" in done.stdout
