"""`explain/<target>.json` of a bundle, as far as the report shows it: what each pass bought, and the culprit."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ...ir.errors import BundleError
from ...pipeline.explain import SCHEMA_VERSION

_LARGEST = 64 * 2**20


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ChangedRead(_Read):
    hits: int
    total: int


class LossRead(_Read):
    sqnr_db: float | None
    changed: ChangedRead | None


class PassRead(_Read):
    """The loss after a pass; `loss` None where the graph at that point cannot be quantized."""

    name: str
    stage: Literal["float", "quantized"]
    loss: LossRead | None


class CulpritRead(_Read):
    node: str
    module: str
    before: float
    share: float


class ExplanationRead(_Read):
    schema_version: int
    samples: int
    unseen: bool
    passes: tuple[PassRead, ...]
    culprit: CulpritRead | None


def read_explanation(folder: Path, target: str) -> ExplanationRead | None:
    """What the bundle at `folder`, whose hashes were checked, explains of `target`; None where it does not.

    Raises:
        BundleError: it is no such file, or of another schema.
    """
    path = folder / "explain" / f"{target}.json"
    if not path.is_file():
        return None
    if path.stat().st_size > _LARGEST:
        raise BundleError(f"{path} is larger than {_LARGEST} bytes, so it is no explanation.")
    try:
        found = ExplanationRead.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BundleError(f"{path} is no explanation: {where}: {first['msg']}.") from error
    if found.schema_version != SCHEMA_VERSION:
        raise BundleError(f"{path} has schema {found.schema_version}; this fxedge reads schema {SCHEMA_VERSION}.")
    return found
