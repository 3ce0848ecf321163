"""The reference of the command line as Markdown: `python -m fxedge.compiler.tools.reference > docs/cli.md`.

It is made of what typer knows of the commands, so that it says what `--help` says. A test compares the two.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import typer

WIDTH = 115
HEAD = """\
# Commands and flags

Made by `python -m fxedge.compiler.tools.reference > docs/cli.md` from the commands themselves: do not edit.

Results go to stdout, everything else to stderr. Exit status: 0 done, 1 a check failed, 2 wrong usage or input,
3 some targets done and some not, 130 Ctrl-C, 70 a bug. What the flags of `compile` say can stand in a TOML file
(`--config`); flags override it."""


def reference(app: typer.Typer) -> str:
    """All commands of `app` in the order of its `--help`, each with its usage, its text and its flags."""
    group: Any = typer.main.get_command(app)
    commands = [(name, command) for name, command in group.commands.items() if not command.hidden]
    index = " · ".join(f"[{name}](#fxedge-{name})" for name, _ in commands)
    parts = [HEAD, _wrapped(index), *(part for name, command in commands for part in _command(name, command))]
    return "\n\n".join(parts) + "\n"


def _command(name: str, command: Any) -> Iterator[str]:
    shown = [param for param in command.params if not getattr(param, "hidden", False)]
    arguments = [param for param in shown if param.param_type_name == "argument"]
    options = [param for param in shown if param.param_type_name == "option"]
    yield f"## fxedge {name}"
    words = ["fxedge", name, *(_usage(param) for param in arguments), *(["[FLAGS]"] if options else [])]
    yield f"```text\n{' '.join(words)}\n```"
    yield _wrapped(" ".join(command.help.split()))
    rows = [_row(_metavar(param), param) for param in arguments]
    rows += [_row(_option(param), param) for param in options]
    if rows:
        yield "\n".join(["| | |", "|---|---|", *rows])


def _usage(argument: Any) -> str:
    text = _metavar(argument) + ("..." if argument.nargs != 1 else "")
    return text if argument.required else f"[{text}]"


def _option(option: Any) -> str:
    """`--output`, `-o` `DIR`, with the metavar as part of the last spelling."""
    names = [*option.opts, *option.secondary_opts]
    metavar = "" if option.is_flag else f" {_metavar(option)}"
    return f"{', '.join(names)}{metavar}"


def _metavar(param: Any) -> str:
    return param.metavar or param.name.upper()


def _row(what: str, param: Any) -> str:
    said = " ".join((param.help or "").split())
    if (default := _default(param)) is not None:
        said = f"{said} Default: {default}."
    return f"| `{_cell(what)}` | {_cell(said)} |"


def _default(param: Any) -> str | None:
    """A default that the help text does not say; None of flags that are off, and of what was not given."""
    if param.default is None or param.default is False or callable(param.default):
        return None
    if param.default is True:
        return str(param.opts[0])
    return f"{param.default:g}" if isinstance(param.default, float) else str(param.default)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    from .cli import app

    print(reference(app), end="")
