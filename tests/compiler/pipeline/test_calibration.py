import contextlib
import dataclasses
from collections.abc import Iterator

import pytest
import torch
from fxedge.backends import registry
from fxedge.compiler.pipeline import calibration
from fxedge.compiler.pipeline.calibration import collect, collect_missing
from fxedge.compiler.pipeline.lower import FloatModel, plan_targets, prepare
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.quant import walk
from fxedge.compiler.quant.calibrate import CalibrationStats
from fxedge.compiler.quant.collectors import CollectorMethod
from fxedge.compiler.quant.plan import Plan
from fxedge.compiler.quant.range_search import search_ranges
from small_compile import small_data, small_images, small_model
from torch import Tensor, nn

NOISE, MSE = (CompileOptions(recipe="fast", calibration=CollectorMethod(name)) for name in ("noise", "mse"))
SPEC = registry.get("onnx").spec


def prepared(model: nn.Module, options: CompileOptions = NOISE) -> tuple[FloatModel, dict[str, Plan]]:
    floats = prepare(model.eval(), (small_images(2),), options)
    return floats, plan_targets(floats, [SPEC], options)


def deaf_model() -> nn.Module:
    """The small model, of which the last layer takes no notice of the channel with most of the range."""
    model = small_model()
    model[0].weight.data[0] *= 100
    model[-1].weight.data[:, :36] = 0
    return model


def collected(options: CompileOptions, *batches: Tensor, progress: object = None) -> CalibrationStats:
    model, plans = prepared(deaf_model(), options)
    return collect(model, plans, iter([(batch,) for batch in batches]), options, 12, progress)  # type: ignore[arg-type]


class Recorder:
    """The tasks, and of each how far it said that it was."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, int | None]] = []
        self.ticks: list[list[int]] = []

    def track(self, label: str, total: int | None = None) -> contextlib.AbstractContextManager:
        self.tasks.append((label, total))
        self.ticks.append([])
        return contextlib.nullcontext(self.ticks[-1].append)


def test_samples_are_counted():
    model, plans = prepared(small_model(), CompileOptions())
    stats = collect(model, plans, (batch.inputs for batch in small_data()), CompileOptions(), samples=12)
    assert (stats.samples, stats.method) == (12, "noise")


@pytest.mark.parametrize("sizes", [[12], [4, 4, 4], [1] * 6, [1]], ids=str)
def test_the_method_noise_narrows_what_mse_leaves_wide(sizes: list[int]):
    batches = small_images(sum(sizes)).split(sizes)
    noise, mse = collected(NOISE, *batches), collected(MSE, *batches)
    assert noise.ranges.keys() == mse.ranges.keys()
    assert (noise.method, noise.samples) == ("noise", sum(sizes))
    (wide,) = [key for key in mse.ranges if "relu" in key[0][0]]
    assert noise.ranges[wide][1] < 0.6 * mse.ranges[wide][1]
    assert noise == collected(NOISE, *batches)


def test_progress_is_of_the_calibration_and_then_of_the_search():
    recorder, batches = Recorder(), small_images(12).split(4)
    collected(NOISE, *batches, progress=recorder)
    assert recorder.tasks == [("calibrate", 12), ("search ranges", 12)]
    assert recorder.ticks == [[4, 8, 12], [4, 8, 12]]
    recorder = Recorder()
    collected(MSE, *batches, progress=recorder)
    assert recorder.tasks == [("calibrate", 12)]


def test_the_search_keeps_the_first_80_samples_and_judges_on_a_fifth(monkeypatch: pytest.MonkeyPatch):
    given = []

    def search(gm, plans, stats, batches, judged, **rest):
        given.append(([batch[0] for batch in batches], [batch[0] for batch in judged]))
        return search_ranges(gm, plans, stats, batches, judged, **rest)

    monkeypatch.setattr(calibration, "search_ranges", search)
    images = small_images(100)
    assert collected(NOISE, *images.split(4)).samples == 100
    monkeypatch.setattr(walk, "_LARGEST_HELD", 0)
    collected(NOISE, *images.split(4))
    ((tuned, judged), small) = given
    assert torch.equal(torch.cat(tuned), images[:64])
    assert torch.equal(torch.cat(judged), images[64:80])
    assert [len(batch) for part in small for batch in part] == [2] * 20


def test_data_are_read_once():
    reads: list[int] = []

    def batches() -> Iterator[tuple[Tensor]]:
        reads.append(0)
        for batch in small_images(12).split(4):
            reads[-1] += 1
            yield (batch,)

    model, plans = prepared(deaf_model())
    collect(model, plans, batches(), NOISE)
    assert reads == [3]


@pytest.mark.parametrize("options", [NOISE, MSE], ids=["noise", "mse"])
def test_only_what_is_missing_is_collected(options: CompileOptions):
    model, plans = prepared(deaf_model(), options)
    reads: list[int] = []

    def batches() -> list[tuple[Tensor, ...]]:
        reads.append(1)
        return [(small_images(12),)]

    full = collect(model, plans, batches(), options)
    reads.clear()
    assert collect_missing(model, plans["onnx"], full, batches, options) is full
    assert reads == []
    first, *others = full.ranges
    part = dataclasses.replace(full, ranges=dict.fromkeys(others, (-7.0, 7.0)))
    found = collect_missing(model, plans["onnx"], part, batches, options)
    assert reads == [1]
    assert found.ranges.keys() == full.ranges.keys()
    assert all(found.ranges[key] == (-7.0, 7.0) for key in others)
    assert found.ranges[first] != (-7.0, 7.0)


def test_a_model_without_integers_has_nothing_to_search():
    options = dataclasses.replace(NOISE, keep_float=("*",))
    recorder = Recorder()
    stats = collected(options, small_images(4), progress=recorder)
    assert (stats.ranges, stats.samples) == ({}, 4)
    assert recorder.tasks == [("calibrate", 12)]


def test_an_output_of_one_number_is_no_obstacle():
    class Scalar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = deaf_model()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return (found := self.net(x)), found.mean()

    model, plans = prepared(Scalar())
    assert collect(model, plans, [(small_images(12),)], NOISE).samples == 12
