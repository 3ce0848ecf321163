"""What the README says is true: its paths exist, its commands parse, its Python runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from fxedge.compiler.pipeline.recipes import RECIPES
from fxedge.compiler.tools import config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def _commands() -> list[list[str]]:
    lines = "".join(_blocks("sh")).replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in line.split("&&")]
    return [shlex.split(part) for part in parts]


@pytest.mark.parametrize("path", re.findall(r"(?:\]\(|python )([\w/.]+\.(?:md|py))", README))
def test_every_path_exists(path: str) -> None:
    if path not in ("model.py", "runner.py"):  # the user's own, and that of a package
        assert (ROOT / path).is_file()


@pytest.mark.parametrize(
    "folder", re.findall(r"^((?:compiler|passes|backends|models|tests)\S*)", README, re.MULTILINE)
)
def test_every_folder_of_the_layout_exists(folder: str) -> None:
    assert (ROOT / folder).is_dir()


def test_every_flag_of_a_command_exists(capsys: pytest.CaptureFixture[str]) -> None:
    from fxedge.compiler.tools.cli import app, run

    known = {}
    for command in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
        assert run([command, "--help"]) == 0
        known[command] = set(re.findall(r"--?[\w-]+", capsys.readouterr().out))
    used = [words for words in _commands() if words[0].endswith("fxedge")]
    assert len(used) >= 3
    for words in used:
        flags = {word for word in words[2:] if word.startswith("-")}
        assert flags <= known[words[1]], words


def test_first_and_second_command_are_what_ci_runs() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "pip\" install -q -c constraints.txt -e '.[dev]'" in script
    assert "pip\" install -q -c constraints.txt -e '.[dev,runtimes]'" in script
    assert "-m pytest -n 2\n" in script
    assert [words[-1] for words in _commands()[:3]] == [".venv", ".[dev]", "digits"]
    assert _commands()[3][-1] == ".[dev,runtimes]"
    assert _commands()[4] == [".venv/bin/python", "-m", "pytest", "-n", "2"]


def test_the_toml_is_a_config(tmp_path: Path) -> None:
    (tmp_path / "fxedge.toml").write_text(_blocks("toml")[0], encoding="utf-8")
    loaded = config.make_config({}, tmp_path / "fxedge.toml")
    assert loaded.recipe in RECIPES


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(_blocks("python")[0], "README.md", "exec"), {})
    assert (tmp_path / "bundle" / "manifest.json").is_file()
