import sys
from pathlib import Path

import pytest
from fxedge.compiler.ir.errors import InputError
from fxedge.compiler.pipeline.sources import is_python_spec, load_python_object


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def failure(spec: str) -> str:
    with pytest.raises(InputError) as caught:
        load_python_object(spec)
    return str(caught.value)


def call_failure(spec: str) -> str:
    loaded = load_python_object(spec)
    with pytest.raises(InputError) as caught:
        loaded()
    return str(caught.value)


def test_what_reads_as_a_spec():
    assert is_python_spec("a/b.py:make")
    assert is_python_spec(r"C:\a\b.py:make")
    assert not is_python_spec("a/b.py")
    assert not is_python_spec("resnet18")


def test_calls_the_named_function(tmp_path: Path):
    path = write(tmp_path / "m.py", "def factory():\n    return 41 + 1\n")
    loaded = load_python_object(f"{path}:factory")
    assert (loaded.path, loaded.name) == (path, "factory")
    assert loaded() == 42


def test_neighbours_import_during_load_and_during_calls(tmp_path: Path):
    write(tmp_path / "a" / "helper_fx.py", "VALUE = 'a'\n")
    write(tmp_path / "a" / "lazy_fx.py", "VALUE = 'lazy'\n")
    write(tmp_path / "b" / "helper_fx.py", "VALUE = 'b'\n")
    text = "import helper_fx\ndef make():\n    return helper_fx.VALUE\n"
    lazy = "def late():\n    import lazy_fx\n    return lazy_fx.VALUE\n"
    a, b = write(tmp_path / "a" / "m.py", text + lazy), write(tmp_path / "b" / "m.py", text)
    path_before = list(sys.path)
    make_a, late = load_python_object(f"{a}:make"), load_python_object(f"{a}:late")
    assert (make_a(), late()) == ("a", "lazy")
    assert sys.modules["lazy_fx"].VALUE == "lazy"
    make_b = load_python_object(f"{b}:make")
    assert (make_b(), make_a()) == ("b", "a")
    assert "lazy_fx" not in sys.modules
    assert sys.path == path_before


def test_dataclasses_with_string_annotations_load(tmp_path: Path):
    text = (
        "from __future__ import annotations\nimport dataclasses\n"
        "@dataclasses.dataclass\nclass Config:\n    width: int = 3\n"
    )
    path = write(tmp_path / "m.py", text)
    assert load_python_object(f"{path}:Config")().width == 3


def test_a_failed_import_leaves_nothing_behind(tmp_path: Path):
    write(tmp_path / "helper_gone.py", "VALUE = 1\n")
    path = write(tmp_path / "m.py", "import helper_gone\n\nraise ValueError('no\\nweights')\n")
    path_before, modules_before = list(sys.path), set(sys.modules)
    assert failure(f"{path}:factory") == f"{path}, line 3: importing it raised ValueError: no weights"
    assert sys.path == path_before
    assert set(sys.modules) == modules_before


def test_a_relative_import_is_told_what_to_write_instead(tmp_path: Path):
    write(tmp_path / "neighbour_fx.py", "VALUE = 1\n")
    path = write(tmp_path / "m.py", "from .neighbour_fx import VALUE\n")
    assert failure(f"{path}:factory") == (
        f"{path}, line 1: importing it raised ImportError: attempted relative import with no known parent "
        "package; a file runs on its own, with its folder on sys.path: import neighbours by their names, "
        "or name a file that imports the package"
    )


def test_installed_packages_below_the_folder_are_no_neighbours(tmp_path: Path):
    write(tmp_path / "site-packages" / "dep_fx.py", "VALUE = 5\n")
    text = f"import sys\nsys.path.append({str(tmp_path / 'site-packages')!r})\nimport dep_fx\nsys.path.pop()\n"
    path = write(tmp_path / "m.py", text)
    other = write(tmp_path / "other" / "m.py", "X = 1\n")
    load_python_object(f"{path}:dep_fx")
    load_python_object(f"{other}:X")
    assert sys.modules.pop("dep_fx").VALUE == 5


def test_errors_name_file_line_and_exception(tmp_path: Path):
    path = write(
        tmp_path / "m.py", "def factory():\n    x = 1\n    return x / 0\n\ndef needs(n):\n    pass\n\nN = 3\n"
    )
    missing, broken = tmp_path / "absent.py", write(tmp_path / "broken.py", "x = (\n")
    quits = write(tmp_path / "quits.py", "import sys\nsys.exit(3)\n")
    assert call_failure(f"{path}:factory") == (
        f"{path}, line 3: factory() raised ZeroDivisionError: division by zero"
    )
    assert call_failure(f"{path}:needs") == (
        f"{path}: needs() raised TypeError: needs() missing 1 required positional argument: 'n'"
    )
    assert call_failure(f"{path}:N") == (
        f"{path}:N is of type int, not a function: name a function that takes no arguments"
    )
    assert failure(f"{path}:factry") == f"{path} has no 'factry': did you mean factory?"
    assert failure(f"{path}:zzz") == f"{path} has no 'zzz'; it defines factory, needs"
    assert failure(f"{missing}:f") == (
        f"the Python file {missing} (of '{missing}:f') does not exist: check the path"
    )
    assert failure(f"{broken}:f") == (
        f"{broken}, line 1: importing it raised SyntaxError: '(' was never closed (broken.py, line 1)"
    )
    assert failure(f"{quits}:f") == f"{quits}, line 2: importing it raised SystemExit: 3"
    assert failure("resnet18") == (
        "'resnet18' does not name an object in a Python file: write path/to/file.py:name"
    )


def test_iterating_wraps_errors_of_generators(tmp_path: Path):
    path = write(tmp_path / "m.py", "def batches():\n    yield 1\n    raise KeyError('shard')\n")
    loaded = load_python_object(f"{path}:batches")
    items = loaded.iterate(loaded())
    assert next(items) == 1
    with pytest.raises(InputError) as caught:
        next(items)
    assert str(caught.value) == f"{path}, line 3: iterating over batches() raised KeyError: 'shard'"
