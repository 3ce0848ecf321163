"""`explain/<target>.json` of a bundle, as far as the report shows it: what each pass bought, and the culprit."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ...pipeline.bundle import read_bundle_record
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
    return read_bundle_record(path, ExplanationRead, "an explanation", SCHEMA_VERSION, _LARGEST)
