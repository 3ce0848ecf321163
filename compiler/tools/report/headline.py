"""The first table of the report, the accuracy beside float's, and what a bundle says of itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ...pipeline.accuracy import Share
from ...pipeline.manifest import Manifest, MaxDropEntry, SaturationEntry, ShareEntry, TargetEntry
from ..summary import end_to_end_text, nodes_text
from ..tables import plural, size_text
from .latency import Run
from .network import shape_text
from .plots import Strips, interval


@dataclass(frozen=True, slots=True)
class Scored:
    """A share with its interval as text and as a drawing."""

    text: str
    bounds: str
    drawing: Markup


@dataclass(frozen=True, slots=True)
class HeadRow:
    """One target in short; `href` leads to its part of the page."""

    href: str
    target: str
    accuracy: Scored | None
    agreement: str
    nodes: str
    end_to_end: str
    float_size: str
    size: str
    smaller: str
    integer_ops: int
    float_ops: int
    latency: str


@dataclass(frozen=True, slots=True)
class Headline:
    """`ends`: where the drawings of accuracy begin and end."""

    rows: tuple[HeadRow, ...]
    float_accuracy: Scored | None
    ends: tuple[str, str]


def make_headline(manifest: Manifest, runs: Sequence[Run], hrefs: Mapping[str, str]) -> Headline:
    """`hrefs`: target -> link, in the order of the rows."""
    shares = [entry.accuracy for entry in manifest.targets.values()] + [manifest.float_accuracy]
    ends = _ends([share for share in shares if share is not None])
    strips = Strips(150, 16)
    rows = tuple(
        HeadRow(
            href=hrefs[name],
            target=name,
            accuracy=_scored(strips, entry.accuracy, ends),
            agreement=_percent(entry.agreement),
            nodes=nodes_text(entry.parity.nodes_exact, entry.parity.nodes, entry.parity.nodes_worst_lsb),
            end_to_end=end_to_end_text(entry.parity),
            **_sizes(manifest, entry),
            integer_ops=entry.integer_ops,
            float_ops=len(entry.float_ops),
            latency=_latency(name, runs),
        )
        for name, entry in ((name, manifest.targets[name]) for name in hrefs)
    )
    texts = (f"{100 * ends[0]:.0f} %", f"{100 * ends[1]:.0f} %")
    return Headline(rows, _scored(strips, manifest.float_accuracy, ends), texts)


def _ends(shares: Sequence[ShareEntry]) -> tuple[float, float]:
    """Whole per cents around all intervals."""
    if not shares:
        return 0.0, 1.0
    low = int(100 * min(share.low for share in shares)) / 100
    high = -int(-100 * max(share.high for share in shares)) / 100
    return max(low - 0.01, 0.0), min(max(high + 0.01, low + 0.02), 1.0)


def _scored(strips: Strips, entry: ShareEntry | None, ends: tuple[float, float]) -> Scored | None:
    if entry is None:
        return None
    share = Share(entry.hits, entry.total)
    low, high = share.interval
    drawing = interval(strips, share.value, low, high, ends)
    return Scored(f"{100 * share.value:.1f} %", f"{100 * low:.1f} – {100 * high:.1f}", drawing)


def _percent(entry: ShareEntry | None) -> str:
    return "–" if entry is None else f"{100 * entry.hits / entry.total:.1f} %"


def _sizes(manifest: Manifest, entry: TargetEntry) -> dict[str, str]:
    size = manifest.files[entry.artifact].size
    found = None if entry.float_artifact is None else manifest.files.get(entry.float_artifact)
    if found is None or not size:
        return {"float_size": "", "size": size_text(size), "smaller": ""}
    return {"float_size": size_text(found.size), "size": size_text(size), "smaller": f"{found.size / size:.1f}×"}


def _latency(target: str, runs: Sequence[Run]) -> str:
    """Of the first run that has the target: float to int8, and how many times as fast."""
    for run in runs:
        times = {timing.result.contestant: timing for timing in run.timings if timing.result.target == target}
        if (int8 := times.get("int8")) is None:
            continue
        text = f"{1e3 * int8.result.median:.2f} ms"
        if (other := times.get("float")) is not None:
            text = f"{1e3 * other.result.median:.2f} → {text}"
        return text if int8.ratio is None else f"{text} ({int8.ratio.value:.2f}×)"
    return ""


def model_facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Name and value of what holds for the whole bundle."""
    for tensor in manifest.inputs:
        yield f"input {tensor.name}", f"{tensor.dtype} [{shape_text(tensor.shape)}]"
    steps = manifest.preprocess.model_dump(exclude_defaults=True, mode="json")
    yield "preprocessing", ", ".join(f"{key} {value}" for key, value in steps.items()) or "none"
    calibration = manifest.calibration
    yield "calibration", f"{calibration.method}, {plural(calibration.samples, 'sample')}"
    yield "model sha256", manifest.model_sha256


def target_facts(manifest: Manifest, name: str) -> Iterator[tuple[str, str]]:
    """Name and value of what holds for one target."""
    entry = manifest.targets[name]
    artifacts = (entry.artifact, *entry.also, *((entry.float_artifact,) if entry.float_artifact else ()))
    for artifact in artifacts:
        file = manifest.files.get(artifact)
        yield artifact, "" if file is None else f"{size_text(file.size)}, sha256 {file.sha256[:16]}…"
    yield "verified in", ", ".join(f"{library} {version}" for library, version in sorted(entry.runtime.items()))
    if entry.isa:
        yield "confirmed on", entry.isa
    for output in entry.outputs:
        scale = "float" if output.scale is None else f"scale {output.scale:.6g}, zero point {output.zero_point}"
        yield f"output {output.name}", scale
    yield "verify allows", f"{entry.tolerance_lsb} LSB, floats {entry.tolerance_float:.2g} of their magnitude"
    for kernels, other in entry.kernels.items():
        off = f"up to {other.worst_lsb} LSB off, {other.differing} of {other.total} integers differ"
        yield f"with {kernels} kernels", f"{off}, {plural(other.flips, 'flip')} of {other.samples}"
    if (drop := entry.max_drop) is not None:
        yield "max-drop", f"{drop.drop:.2f} {drop.unit} lost, {drop.without:.2f} without ({_relieved(drop)})"


def _relieved(drop: MaxDropEntry) -> str:
    parts = [f"8-bit weights for {', '.join(drop.wider)}"] if drop.wider else []
    parts += [f"float for {', '.join(drop.floats)}"] if drop.floats else []
    return " and ".join(parts) or "no layer had to be relieved"


def saturation_text(found: SaturationEntry) -> str:
    """The proof in words."""
    if found.largest is None:
        return f"On {found.isa} the kernels sum in 32 bits: nothing can saturate."
    repaired = f", {plural(found.repaired, 'channel')} of them after a repair" if found.repaired else ""
    largest = f"The largest sum of two products that any activations can give is {found.largest} of 32767."
    if found.proven == found.channels:
        every = plural(found.channels, "output channel")
        return f"No sum can saturate on {found.isa}: proven for all {every}{repaired}. {largest}"
    open_ = found.channels - found.proven
    return (
        f"On {found.isa}, {open_} of {plural(found.channels, 'output channel')} can saturate in 16 bits; "
        f"{found.proven} are proven not to{repaired}. {largest}"
    )
