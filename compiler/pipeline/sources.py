"""User code named as `file.py:name`: a model factory or a data loader. Loading it executes the file.

The file runs as a module of a name of its own. While it or one of its functions runs, its folder stands first
on `sys.path`, as under `python file.py`, so that it can import its neighbours; afterwards the folder is taken
off again. Neighbours stay in `sys.modules` (their classes need it) until a file of another folder is loaded,
so that two projects may each have a `utils.py`; after a failure they are dropped at once.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import itertools
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ..ir.errors import FxedgeError, InputError

_SPEC = re.compile(r"(?P<path>.+\.py):(?P<name>[A-Za-z_]\w*)")
_FOLDER_MARK = "__fxedge_folder__"


@dataclass(frozen=True, slots=True)
class PythonObject:
    """What `file.py:name` names. Calling it calls the function; errors inside become `InputError`s."""

    path: Path
    name: str
    value: object

    def __call__(self) -> object:
        """The function's result.

        Raises:
            InputError: it is not a function, or it raised; says file, line and exception.
        """
        if not callable(self.value):
            raise InputError(
                f"{self.path}:{self.name} is of type {type(self.value).__name__}, not a function: "
                "name a function that takes no arguments"
            )
        with _user_code(self.path, f"{self.name}()"):
            return self.value()

    def iterate(self, result: Iterable[object]) -> Iterator[object]:
        """The items of what the function returned or yields, with the same care for errors."""
        with _user_code(self.path, f"iterating over {self.name}()"):
            items = iter(result)
        while True:
            with _user_code(self.path, f"iterating over {self.name}()"):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item


def is_python_spec(spec: str) -> bool:
    """Whether `spec` reads as `file.py:name`."""
    return _SPEC.fullmatch(spec) is not None


def load_python_object(spec: str) -> PythonObject:
    """Execute the file of `file.py:name` and take `name` from it.

    Raises:
        InputError: `spec` is not of this form, the file is missing or raises, or it has no such name.
    """
    parts = _SPEC.fullmatch(spec)
    if parts is None:
        raise InputError(f"{spec!r} does not name an object in a Python file: write path/to/file.py:name")
    path, name = Path(parts["path"]), parts["name"]
    if not path.is_file():
        raise InputError(f"the Python file {path} (of {spec!r}) does not exist: check the path")
    module = _execute(path)
    if not hasattr(module, name):
        raise InputError(f"{path} has no {name!r}{_suggest(name, module)}")
    return PythonObject(path, name, getattr(module, name))


def _execute(path: Path) -> ModuleType:
    module_name = _unused_module_name(path)
    spec = importlib.util.spec_from_file_location(module_name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        with _user_code(path, "importing it"):
            spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(module_name, None)
        raise
    return module


def _unused_module_name(path: Path) -> str:
    names = (f"fxedge_user_{re.sub(r'[^0-9a-zA-Z_]', '_', path.stem)}_{i}" for i in itertools.count())
    return next(name for name in names if name not in sys.modules)


@contextlib.contextmanager
def _user_code(path: Path, doing: str) -> Iterator[None]:
    """Run the body with the file's folder importable; whatever it raises becomes an `InputError`."""
    folder = str(path.resolve().parent)
    _forget_neighbours(keep=folder)
    before = set(sys.modules)
    sys.path.insert(0, folder)
    try:
        yield
    except FxedgeError:
        raise
    except (Exception, SystemExit) as error:
        _mark_neighbours(folder, before)
        _forget_neighbours(keep="")
        raise InputError(_describe(error, path, doing)) from error
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
    _mark_neighbours(folder, before)


def _mark_neighbours(folder: str, before: set[str]) -> None:
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if isinstance(file, str) and _is_neighbour(name, Path(file), folder):
            setattr(sys.modules[name], _FOLDER_MARK, folder)


def _is_neighbour(name: str, file: Path, folder: str) -> bool:
    """Whether the module was found in `folder` itself, and is no installed package that lies below it."""
    if not file.is_relative_to(folder) or "site-packages" in file.parts:
        return False
    return file.relative_to(folder).parts[0] in (name.partition(".")[0], f"{name}.py")


def _forget_neighbours(keep: str) -> None:
    for name, module in list(sys.modules.items()):
        if getattr(module, "__dict__", {}).get(_FOLDER_MARK, keep) != keep:
            del sys.modules[name]


def _describe(error: BaseException, path: Path, doing: str) -> str:
    text = str(error).replace("\n", " ").strip()
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{path}{_line(error, path)}: {doing} raised {what}{_advice(error)}"


def _advice(error: BaseException) -> str:
    if isinstance(error, ImportError) and "no known parent package" in str(error):
        return (
            "; a file runs on its own, with its folder on sys.path: import neighbours by their names, "
            "or name a file that imports the package"
        )
    return ""


def _line(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError) and error.filename == str(path.resolve()):
        return f", line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path.resolve())]
    return f", line {lines[-1]}" if lines else ""


def _suggest(name: str, module: ModuleType) -> str:
    public = sorted(key for key in vars(module) if not key.startswith("_"))
    close = difflib.get_close_matches(name, public)
    if close:
        return f": did you mean {' or '.join(close)}?"
    functions = [key for key in public if getattr(vars(module)[key], "__module__", None) == module.__name__]
    return f"; it defines {', '.join(functions) or 'no functions'}"
