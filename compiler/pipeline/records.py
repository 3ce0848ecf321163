"""JSON files with a schema, written as a whole and checked when read: runs of a benchmark, costs of kernels."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ..ir.errors import FxedgeError, InputError

_LARGEST_RECORD = 256 * 2**20


class Entry(BaseModel):
    """A part of a file that may have been changed: no field more than the schema has, and none of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Record = TypeVar("Record", bound=BaseModel)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write it as a whole: what was at `path` stays until the new file is complete.

    Raises:
        OSError: `path` cannot be written; nothing is left behind.
    """
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_whole(path: Path, text: str) -> None:
    """`text` as UTF-8; what was at `path` stays until the new file is complete.

    Raises:
        OSError: `path` cannot be written; nothing is left behind.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)  # mkstemp made it private
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise


def require_place(path: Path) -> None:
    """Check before long work that a record can be put at `path`.

    Raises:
        InputError: its folder does not exist, or it is a folder itself.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file for the record.")
    if not path.parent.is_dir():
        raise InputError(f"The folder {path.parent} does not exist; create it or choose another place.")


def read_record(
    path: Path,
    kind: type[Record],
    what: str,
    version: int,
    *,
    error: type[FxedgeError] = InputError,
    remedy: str | None = None,
    largest: int = _LARGEST_RECORD,
) -> Record:
    """The record at `path`, at most `largest` bytes, checked against its schema. `what` names it in errors ("a
    record of fxedge bench"); `remedy` is what to do about one that is damaged, by default to give another.

    Raises:
        InputError, or the `error` given: no such file, no JSON, or another schema.
    """
    remedy = remedy or f"give {what}"
    if not path.is_file():
        raise error(f"{path} does not exist or is no file; {remedy}.")
    if path.stat().st_size > largest:
        raise error(f"{path} is larger than {largest} bytes, so it is not {what}.")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as why:
        raise error(f"{path} is not valid JSON ({why}); {remedy}.") from why
    found = raw.get("schema_version") if isinstance(raw, dict) else None
    if found != version:
        raise error(f"{path} has schema {found!r}; this fxedge reads schema {version} of {what}.")
    try:
        return kind.model_validate(raw)
    except ValidationError as why:
        first = why.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise error(f"{path} is not {what}: {where}: {first['msg']}.") from why
    except InputError as why:  # of what a field stands for
        raise error(f"{path} is not {what}: {why}.") from why
