"""Two bundles side by side: accuracy, errors of layers, what runs in float, sizes, latency in interleaved runs.

Both bundles are read only after their hashes were checked. Layers are matched by module path and node name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...ir.errors import FxedgeError, InputError
from ...ir.progress import Progress
from ...pipeline.accuracy import Share, difference_interval
from ...pipeline.bundle import one_sample, read_bundle
from ...pipeline.driver import usable_backends
from ...pipeline.layers import LayersEntry, NodeEntry, read_layers
from ...pipeline.manifest import Manifest, ShareEntry, TargetEntry
from ...pipeline.runtime import RemoteRuntime
from ..bench.figures import Ratio, median, paired_ratio

OLD, NEW = "old", "new"
_NO_ERROR = 200.0  # dB: far beyond what float32 can tell


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose hashes are right."""

    folder: Path
    manifest: Manifest

    @classmethod
    def read(cls, folder: Path) -> Bundle:
        """Raises BundleError: it is damaged, or none."""
        return cls(folder, read_bundle(folder))

    def layers(self, target: str) -> LayersEntry | None:
        return read_layers(self.folder, target)


@dataclass(frozen=True, slots=True)
class ShareChange:
    """Two shares and their difference in points with its 95 % interval, which takes the samples for different
    ones: where they are the same, it is wider than it need be."""

    old: Share
    new: Share

    @property
    def points(self) -> float:
        return 100 * (self.new.value - self.old.value)

    @property
    def interval(self) -> tuple[float, float]:
        low, high = difference_interval(self.old, self.new)
        return 100 * low, 100 * high


@dataclass(frozen=True, slots=True)
class LayerChange:
    """SQNR in dB of one layer's accumulated error."""

    node: str
    module: str
    old: float
    new: float

    @property
    def change(self) -> float:
        return self.new - self.old


@dataclass(frozen=True, slots=True)
class Moved:
    """An op that now runs in float, or no longer does; the reason is that of whichever bundle has it in float."""

    node: str
    module: str
    reason: str


@dataclass(frozen=True, slots=True)
class LatencyChange:
    """Median seconds of one sample, and the median of new / old over pairs of runs."""

    old: float
    new: float
    ratio: Ratio


@dataclass(frozen=True, slots=True)
class TargetDiff:
    """One target in both bundles; sizes in bytes; None where a bundle does not say. `has_layers`: both tell what
    their ops run as."""

    target: str
    accuracy: ShareChange | None
    agreement: ShareChange | None
    size: tuple[int, int]
    worst_lsb: tuple[int, int]
    layers: tuple[LayerChange, ...]
    now_float: tuple[Moved, ...]
    now_int8: tuple[Moved, ...]
    latency: LatencyChange | None
    has_layers: bool = True


@dataclass(frozen=True, slots=True)
class BundleDiff:
    """`lost` targets are in the old bundle only, `added` ones in the new one only."""

    old: Bundle
    new: Bundle
    float_accuracy: ShareChange | None
    targets: tuple[TargetDiff, ...]
    lost: tuple[str, ...]
    added: tuple[str, ...]
    notes: tuple[str, ...]


def diff_bundles(
    old: Path, new: Path, *, targets: tuple[str, ...], runs: int, threads: int, progress: Progress
) -> BundleDiff:
    """Compare the bundles in two folders on `targets` (empty: on all that both have), timing `runs` pairs.

    Raises:
        BundleError: one is damaged, or no bundle.
        InputError: they have no target in common, or not one that was asked for.
    """
    before, after = Bundle.read(old), Bundle.read(new)
    for bundle in (before, after):
        if unknown := [name for name in targets if name not in bundle.manifest.targets]:
            known = ", ".join(bundle.manifest.targets)
            raise InputError(f"{bundle.folder} has no target {unknown[0]!r}; it has {known}.")
    shared = [name for name in after.manifest.targets if name in before.manifest.targets]
    if not shared:
        has = " and ".join(f"{bundle.folder} {', '.join(bundle.manifest.targets)}" for bundle in (before, after))
        raise InputError(f"The bundles have no target in common: {has}.")
    latencies: dict[str, LatencyChange] = {}
    notes: list[str] = []
    if runs:
        latencies, notes = _latencies(before, after, targets or tuple(shared), runs, threads, progress)
    compared = [_compare(before, after, name, latencies.get(name)) for name in targets or shared]
    return BundleDiff(
        before,
        after,
        _share_change(before.manifest.float_accuracy, after.manifest.float_accuracy),
        tuple(compared),
        () if targets else tuple(name for name in before.manifest.targets if name not in shared),
        () if targets else tuple(name for name in after.manifest.targets if name not in shared),
        (*_judged_apart(compared), *notes),
    )


def _compare(old: Bundle, new: Bundle, target: str, latency: LatencyChange | None) -> TargetDiff:
    before, after = old.manifest.targets[target], new.manifest.targets[target]
    described = old.layers(target), new.layers(target)
    layers, now_float, now_int8 = _compare_layers(*described)
    return TargetDiff(
        target,
        _share_change(before.accuracy, after.accuracy),
        _share_change(before.agreement, after.agreement),
        (_size(old, before), _size(new, after)),
        (before.parity.nodes_worst_lsb, after.parity.nodes_worst_lsb),
        layers,
        now_float,
        now_int8,
        latency,
        None not in described,
    )


def _compare_layers(
    old: LayersEntry | None, new: LayersEntry | None
) -> tuple[tuple[LayerChange, ...], tuple[Moved, ...], tuple[Moved, ...]]:
    """Errors, what is now in float, what is now on integers; nothing where a bundle says nothing of its layers."""
    if old is None or new is None:
        return (), (), ()
    return tuple(_layer_changes(old, new)), tuple(_moved(old, new)), tuple(_moved(new, old))


def _size(bundle: Bundle, entry: TargetEntry) -> int:
    return bundle.manifest.files[entry.artifact].size


def _share_change(old: ShareEntry | None, new: ShareEntry | None) -> ShareChange | None:
    if old is None or new is None:
        return None
    return ShareChange(Share(old.hits, old.total), Share(new.hits, new.total))


def _nodes(layers: LayersEntry, kind: str) -> dict[tuple[str, str], NodeEntry]:
    return {(node.module, node.node): node for node in layers.nodes if node.kind == kind}


def _layer_changes(old: LayersEntry, new: LayersEntry) -> Iterator[LayerChange]:
    """Layers that both have on integers and whose error both know, in the order of execution."""
    before = _nodes(old, "int8")
    for key, node in _nodes(new, "int8").items():
        sqnr = _sqnr(before.get(key)), _sqnr(node)
        if sqnr[0] is not None and sqnr[1] is not None:
            yield LayerChange(node.node, node.module, sqnr[0], sqnr[1])


def _sqnr(node: NodeEntry | None) -> float | None:
    """dB; where nothing differs, which has no figure, more than any."""
    if node is None or node.value is None or node.value.error is None:
        return None
    found = node.value.error.sqnr_db
    return _NO_ERROR if found is None else found


def _moved(integers: LayersEntry, floats: LayersEntry) -> Iterator[Moved]:
    """Ops that run on integers in one and in float in the other."""
    before = _nodes(integers, "int8")
    for key, node in _nodes(floats, "float").items():
        if key in before:
            yield Moved(node.node, node.module, node.reason or "no reason is recorded")


def _judged_apart(compared: list[TargetDiff]) -> Iterator[str]:
    for found in compared:
        if found.accuracy is not None and found.accuracy.old.total != found.accuracy.new.total:
            totals = f"{found.accuracy.old.total} and {found.accuracy.new.total}"
            yield f"the accuracies of {found.target} are from {totals} samples: they are not of the same data"


def _latencies(
    old: Bundle, new: Bundle, targets: tuple[str, ...], runs: int, threads: int, progress: Progress
) -> tuple[dict[str, LatencyChange], list[str]]:
    """By target, and for the others why there is none."""
    if old.manifest.inputs != new.manifest.inputs:
        return {}, ["latencies are not compared: the models take different inputs"]
    usable, missing = usable_backends(targets)
    notes = [f"no latency of {name}: {error}" for name, error in missing.items()]
    found = {}
    with progress.track("time both", len(usable)) as advance:
        for done, name in enumerate(usable):
            try:
                found[name] = _latency(old, new, name, runs, threads)
            except FxedgeError as error:
                notes.append(f"no latency of {name}: {error}")
            advance(done + 1)
    return found, notes


def _latency(old: Bundle, new: Bundle, target: str, runs: int, threads: int) -> LatencyChange:
    sample = one_sample(new.folder, new.manifest)
    paths = {key: one.folder / one.manifest.targets[target].artifact for key, one in ((OLD, old), (NEW, new))}
    with RemoteRuntime(target, paths, threads) as runtime:
        seconds: Mapping[str, list[float]] = runtime.time(list(paths), sample, runs)
    ratio = paired_ratio(seconds[NEW], seconds[OLD])
    return LatencyChange(median(seconds[OLD]), median(seconds[NEW]), ratio)
