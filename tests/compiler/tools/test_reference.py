"""docs/cli.md is what the commands say of themselves; what the reference makes of each kind of parameter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
import typer
from fxedge.compiler.tools.cli import app
from fxedge.compiler.tools.reference import HEAD, reference
from support import graph as dedented

PAGE = Path(__file__).parents[3] / "docs" / "cli.md"


def test_the_page_is_current(request: pytest.FixtureRequest) -> None:
    text = reference(app)
    if request.config.getoption("--update-golden"):
        PAGE.write_text(text, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == text, (
        "docs/cli.md is not what the commands say; "
        "python -m fxedge.compiler.tools.reference > docs/cli.md (or pytest --update-golden) renews it"
    )


def test_every_command_and_flag_is_there() -> None:
    text = reference(app)
    group = typer.main.get_command(app)
    assert list(group.commands) == [line.split()[-1] for line in text.splitlines() if line.startswith("## ")]
    for name, command in group.commands.items():
        section = text.partition(f"## fxedge {name}\n")[2].partition("\n## ")[0]
        for param in command.params:
            for spelling in param.opts if param.param_type_name == "option" else [param.metavar.split("|")[0]]:
                assert spelling in section, (name, spelling)


def test_arguments_flags_and_defaults() -> None:
    app = typer.Typer(add_completion=False)

    @app.command()
    def mix(
        files: Annotated[list[str], typer.Argument(metavar="FILE", help="What to mix.")],
        speed: Annotated[float, typer.Option(metavar="A|B", help="How\nfast.")] = 2.0,
        gently: Annotated[bool, typer.Option("--gently/--wildly", "-g", help="With care.")] = False,
        cold: Annotated[bool, typer.Option("--cold/--warm", help="How cold.")] = True,
        bowl: Annotated[str | None, typer.Option(metavar="NAME", help="Which.")] = None,
    ) -> None:
        """Mix.

        Well.
        """

    @app.command()
    def rest() -> None:
        """Do nothing."""

    @app.command(hidden=True)
    def secret() -> None:
        """Not said."""

    assert (
        reference(app)
        == f"{HEAD}\n\n"
        + dedented("""
        [mix](#fxedge-mix) · [rest](#fxedge-rest)

        ## fxedge mix

        ```text
        fxedge mix FILE... [FLAGS]
        ```

        Mix. Well.

        | | |
        |---|---|
        | `FILE` | What to mix. |
        | `--speed A\\|B` | How fast. Default: 2. |
        | `--gently, -g, --wildly` | With care. |
        | `--cold, --warm` | How cold. Default: --cold. |
        | `--bowl NAME` | Which. |

        ## fxedge rest

        ```text
        fxedge rest
        ```

        Do nothing.
    """)
        + "\n"
    )
