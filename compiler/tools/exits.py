"""What a run of the command line ends with: exit statuses, and errors as one paragraph on stderr.

0    done
1    a check failed: deployed differs from simulated, something got worse, `verify` found a bundle damaged
2    wrong usage or input; a damaged bundle, where another command reads it
3    some targets done and some not
70   a bug in fxedge: the only case that shows a traceback
130  Ctrl-C; 143 where SIGTERM ended it; both leave nothing half-written
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from types import FrameType

import typer

from ..ir.errors import FxedgeError, VerificationError

DONE, CHECK_FAILED, WRONG_INPUT, PARTLY_DONE = 0, 1, 2, 3
BUG, INTERRUPTED, TERMINATED = 70, 130, 143

# The base of typer's own complaints about arguments; typer exports only its subclasses.
UsageError = typer.BadParameter.__bases__[0]


class Terminated(KeyboardInterrupt):
    """SIGTERM came: unwound like Ctrl-C, so that the same clean-up runs."""


@contextlib.contextmanager
def sigterm_unwinds() -> Iterator[None]:
    """Within the block SIGTERM raises `Terminated`; outside the main thread nothing is changed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated


def print_error(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)


def note(message: str) -> None:
    print(f"note: {message}", file=sys.stderr)


def report_exception(error: BaseException) -> int:
    """Say on stderr what went wrong and return the exit status that belongs to it."""
    match error:
        case Terminated():
            print_error("ended by SIGTERM; nothing was written.")
            return TERMINATED
        case KeyboardInterrupt() | typer.Abort():
            print_error("interrupted; nothing was written.")
            return INTERRUPTED
        case BrokenPipeError():  # `fxedge targets | head`: nobody reads on, and nothing can be said to anybody
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return DONE
        case VerificationError():
            print_error(str(error))
            return CHECK_FAILED
        case FxedgeError() | ValueError() if _is_expected(error):
            print_error(str(error))
            return WRONG_INPUT
        case OSError():
            print_error(_describe_os_error(error))
            return WRONG_INPUT
    if isinstance(error, UsageError):
        message = error.format_message()  # type: ignore[attr-defined]
        print_error(f"{message}{'' if message[-1:] in '.?!' else '.'} See fxedge --help.")
        return WRONG_INPUT
    traceback.print_exception(error)
    print_error("this is a bug in fxedge; please report it with the lines above.")
    return BUG


def _is_expected(error: BaseException) -> bool:
    """Errors of the tree, and those of `models`, which stands alone and has its own (both are `ValueError`s)."""
    from ...models.checkpoints import CheckpointError
    from ...models.registry import UnknownModelError

    return isinstance(error, (FxedgeError, CheckpointError, UnknownModelError))


def _describe_os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename is not None else ""
    advice = {
        errno.ENOSPC: " Free some space or choose another place.",
        errno.EDQUOT: " Free some space or choose another place.",
        errno.EACCES: " Check its permissions.",
        errno.EPERM: " Check its permissions.",
        errno.EROFS: " Choose a place that can be written.",
    }.get(error.errno or 0, "")
    return f"{where}{error.strerror or error}.{advice}"
