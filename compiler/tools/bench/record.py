"""What a benchmark leaves behind: one JSON file, schema 1, with every single time measured.

The schema's version rises where older records can no longer be read; a field that is added has a default.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...ir.errors import InputError

SCHEMA_VERSION = 1
_LARGEST_RECORD = 256 * 2**20

Record = TypeVar("Record", bound=BaseModel)


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MachineEntry(_Entry):
    """`isa` as `--isa native` names it; `cores` that the process might use; `load` over the minute before."""

    cpu: str
    architecture: str
    isa: str
    cores: int
    governor: str
    load: float | None
    system: str
    python: str


class SettingsEntry(_Entry):
    """At most `runs` rounds and about `seconds` seconds for each set of artifacts that was timed together."""

    threads: tuple[int, ...]
    batch: int
    runs: int
    seconds: float


class ResultEntry(_Entry):
    """One artifact in one runtime. Times in seconds, memory in bytes.

    `contestant` is int8, float, or the file name of somebody else's model; `adapted` says what was done to the
    inputs for it. `cold_start`: from the start of the process to the first answer; `first_load`: of that, loading
    the model with the runtime's library; `load`: loading it again, the library being there. `memory_before`: of
    the process before it loaded anything; `memory_peak`: the most since. `joules`: of whole packages, a sample;
    where it is None, `no_energy` says why. `seconds` has each timed run, in the order of the rounds.
    """

    bundle: str
    model: str
    target: str
    contestant: str
    threads: int
    batch: int
    artifact: str
    sha256: str
    size: int
    versions: dict[str, str]
    seconds: tuple[float, ...] = Field(min_length=1)
    median: float
    p90: float
    p99: float
    samples_per_second: float
    cold_start: float
    first_load: float
    load: float
    memory_before: int | None
    memory_peak: int | None
    joules: float | None = None
    no_energy: str | None = None
    adapted: tuple[str, ...] = ()


class RatioEntry(_Entry):
    """How many times as long `above` took as `below`, pair by pair: the median, its 95 % interval (None where
    there were too few pairs), and the number of pairs."""

    bundle: str
    target: str
    threads: int
    above: str
    below: str
    value: float
    low: float | None
    high: float | None
    pairs: int


class SkipEntry(_Entry):
    bundle: str
    target: str
    reason: str


class BenchRecord(_Entry):
    """The whole file. `taken` is in UTC, ISO 8601; `libraries` are those in every process, name to version."""

    schema_version: int = SCHEMA_VERSION
    fxedge: str
    taken: str
    machine: MachineEntry
    libraries: dict[str, str]
    settings: SettingsEntry
    results: tuple[ResultEntry, ...]
    ratios: tuple[RatioEntry, ...]
    skipped: tuple[SkipEntry, ...] = ()


def write_record(path: Path, record: BaseModel) -> None:
    """A record as `write_json`."""
    write_json(path, record.model_dump(mode="json"))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write it as a whole: what was at `path` stays until the new file is complete.

    Raises:
        OSError: `path` cannot be written; nothing is left behind.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
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


def read_record(path: Path, kind: type[Record], what: str, version: int) -> Record:
    """The record at `path`, checked against its schema. `what` names it in errors ("a record of fxedge bench").

    Raises:
        InputError: no such file, no JSON, or another schema.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist or is no file; give {what}.")
    if path.stat().st_size > _LARGEST_RECORD:
        raise InputError(f"{path} is larger than {_LARGEST_RECORD} bytes, so it is not {what}.")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); give {what}.") from error
    found = raw.get("schema_version") if isinstance(raw, dict) else None
    if found != version:
        raise InputError(f"{path} has schema {found!r}; this fxedge reads schema {version} of {what}.")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path} is not {what}: {where}: {first['msg']}.") from error
