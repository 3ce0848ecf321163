"""What a bundle says of itself: `manifest.json`, schema 1.

The schema's version rises where older bundles can no longer be read; a field that is added has a default.

Everything in it is determined by the model, the data, the options and the library versions, so that the same
compilation gives the same bytes; latencies, which are not, are printed and never stored here.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from .preprocess import Preprocess
from .records import Entry

SCHEMA_VERSION = 1


class FileEntry(Entry):
    """One file of the bundle; `size` in bytes."""

    sha256: str
    size: int


class TensorEntry(Entry):
    """One input of the model. `shape` has None where a size may vary."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class OutputEntry(Entry):
    """One output; `scale` and `zero_point` where it is a dequantized integer value."""

    name: str
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    zero_point: int | None = None


class PassEntry(Entry):
    """What a pass did. `skipped`: what it left alone and why; `notes`: what must be known of what it changed (on
    what evidence, by how much). `max_error`: largest output change relative to the output's magnitude, where
    checked."""

    name: str
    changes: int
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    max_error: float | None = None
    rolled_back: str | None = None


class ParityEntry(Entry):
    """Simulated against deployed. (a) `nodes_*`: each integer node fed the runtime's own inputs.

    (b) `worst_lsb`, `differing` of `total` integers and top-1 `flips` end to end over `samples`; `worst_float`
    for outputs that are not quantized, relative to their magnitude. `exact`: every step promises 0 LSB.
    """

    nodes: int
    nodes_exact: int
    nodes_worst_lsb: int
    exact: bool
    worst_lsb: int
    differing: int
    total: int
    worst_float: float
    flips: int
    samples: int


class SaturationEntry(Entry):
    """Whether sums of two products in 16 bits can saturate on `isa`: `proven` of `channels` output channels of
    layers with weights cannot, `repaired` of them because a pass changed their weights. `largest` is the largest
    sum that any activations can give (None: the kernels sum in 32 bits); `unsafe` has the rest, by layer."""

    isa: str
    channels: int
    proven: int
    repaired: int
    largest: int | None
    unsafe: dict[str, int]


class ShareEntry(Entry):
    """`hits` of `total`, with the 95 % interval (Wilson)."""

    hits: int = Field(ge=0)
    total: int = Field(ge=1)
    low: float = Field(ge=0, le=1, allow_inf_nan=False)
    high: float = Field(ge=0, le=1, allow_inf_nan=False)

    @model_validator(mode="after")
    def _no_more_than_all(self) -> Self:
        if self.hits > self.total:
            raise ValueError(f"{self.hits} hits of {self.total}")
        return self


class MaxDropEntry(Entry):
    """What `--max-drop` relieved: layers with weights of 8 bits and layers in float, the loss with them and
    without on `samples` held-out calibration samples, and what it counts."""

    wider: tuple[str, ...]
    floats: tuple[str, ...]
    drop: float
    without: float
    unit: str
    samples: int


class KernelsEntry(Entry):
    """Where the runtime computes by other kernels: its golden outputs, as simulated, and on these inputs by how
    much they are off the target's own: `worst_lsb`, `differing` of `total` integers, `worst_float` relative to the
    outputs' magnitude, top-1 `flips` of `samples`. `checked`: compared with the runtime when compiled."""

    golden: str
    worst_lsb: int
    differing: int
    total: int
    worst_float: float
    flips: int
    samples: int
    checked: bool
    tolerance_lsb: int
    tolerance_float: float


class TargetEntry(Entry):
    """One runtime's artifact, and `also` its further forms. `tolerance_lsb` and `tolerance_float` are what
    `verify` allows between the runtime and the golden outputs, which are the simulator's; `kernels` are the others
    that the runtime may have (`TargetSpec.kernels`)."""

    artifact: str
    float_artifact: str | None
    golden: str
    runtime: dict[str, str]
    isa: str
    integer_ops: int
    float_ops: tuple[str, ...]
    outputs: tuple[OutputEntry, ...]
    passes: tuple[PassEntry, ...]
    parity: ParityEntry
    tolerance_lsb: int
    tolerance_float: float
    accuracy: ShareEntry | None = None
    agreement: ShareEntry | None = None
    notes: tuple[str, ...] = ()
    max_drop: MaxDropEntry | None = None
    saturation: SaturationEntry | None = None
    also: tuple[str, ...] = ()
    kernels: dict[str, KernelsEntry] = Field(default_factory=dict)


class CalibrationEntry(Entry):
    method: str
    samples: int
    sha256: str


class Manifest(Entry):
    """The whole of `manifest.json`; `files` covers every other file of the bundle."""

    schema_version: int = SCHEMA_VERSION
    fxedge: str
    model: str
    model_sha256: str
    inputs: tuple[TensorEntry, ...]
    preprocess: Preprocess
    calibration: CalibrationEntry
    recipe: str
    notes: tuple[str, ...] = ()
    passes: tuple[PassEntry, ...]
    float_accuracy: ShareEntry | None
    golden_inputs: str
    targets: dict[Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")], TargetEntry]
    files: dict[str, FileEntry]
