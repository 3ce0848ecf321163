"""A watch over real lowerings of the small model, with passes that are put in to do known harm."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from fxedge.backends import registry
from fxedge.compiler.ir.constants import constants, set_constant
from fxedge.compiler.ir.passes import Numerics, PassContext, PassResult
from fxedge.compiler.ir.progress import Silent
from fxedge.compiler.ir.stages import Stage
from fxedge.compiler.pipeline import lower as lowering
from fxedge.compiler.pipeline.ablation import PassEffect, PassWatch, program_loss, watch_compilation
from fxedge.compiler.pipeline.calibration import collect
from fxedge.compiler.pipeline.holdout import split_samples
from fxedge.compiler.pipeline.lower import FloatModel, Lowered, lower, plan_targets, prepare
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.pipeline.recipes import Recipe
from small_compile import small_data, small_images, small_model
from torch import fx


@dataclass(frozen=True, slots=True)
class Noise:
    """Adds a share of each weight's largest entry to its first one; a share of 0 changes nothing."""

    share: float
    name: ClassVar[str] = "noise"
    requires: ClassVar[Stage] = Stage.FLOAT
    ensures: ClassVar[Stage] = Stage.FLOAT
    numerics: ClassVar[Numerics] = "changes"

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> PassResult:
        if not self.share:
            return PassResult(0)
        for name, value in constants(gm).items():
            if value.ndim > 1:
                changed = value.clone()
                changed.view(-1)[0] += self.share * value.abs().max()
                set_constant(gm, name, changed)
        return PassResult(1)


@dataclass(frozen=True, slots=True)
class Broken(Noise):
    name: ClassVar[str] = "broken"
    numerics: ClassVar[Numerics] = "close"


@dataclass(frozen=True, slots=True)
class Zero:
    """Makes every integer weight 0."""

    name: ClassVar[str] = "zero"
    requires: ClassVar[Stage] = Stage.QUANTIZED
    ensures: ClassVar[Stage] = Stage.QUANTIZED
    numerics: ClassVar[Numerics] = "changes"

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> PassResult:
        weights = [name for name in constants(gm) if name.endswith("weight_quantized")]
        for name in weights:
            set_constant(gm, name, torch.zeros_like(constants(gm)[name]))
        return PassResult(len(weights))


@dataclass(frozen=True, slots=True)
class Watched:
    effects: tuple[PassEffect, ...]
    captured: FloatModel
    lowered: Lowered


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Watched]:
    """`watched(floats, integers)`: what the watch saw of a recipe that ends with these passes."""

    def run(floats: tuple = (), integers: tuple = ()) -> Watched:
        recipe = Recipe(floats, integers)
        monkeypatch.setattr(lowering, "make_recipe", lambda options: recipe)
        options, spec = CompileOptions(), registry.get("onnx").spec
        data, judged = split_samples(small_data(24), 0.5)
        watch = PassWatch([spec], options, data, judged)
        model = prepare(small_model(), (small_images(2),), options, after=watch.float_pass)
        plan = plan_targets(model, [spec], options)["onnx"]
        stats = collect(model, {"onnx": plan}, (batch.inputs for batch in data), options)
        lowered = lower(model, spec, plan, stats, options, after=watch.quantized_pass(spec, plan))
        monkeypatch.setattr(lowering, "make_recipe", lambda options: Recipe((), plain=()))
        return Watched(watch.effects("onnx"), prepare(small_model(), (small_images(2),), options), lowered)

    return run


def test_each_pass_has_the_loss_of_the_program_that_ends_with_it(watched: Callable[..., Watched]):
    found = watched()
    names = [effect.name for effect in found.effects]
    assert names == ["capture", "canonicalize", "fold-batch-norm", "fuse-activation", "insert-qdq", "clean-qdq"]
    assert [effect.stage for effect in found.effects] == ["float"] * 4 + ["quantized"] * 2
    judged = split_samples(small_data(24), 0.5)[1]
    last = program_loss(found.lowered.program, found.captured.gm, judged, Silent(), "all")
    assert found.effects[-1].loss == found.effects[-2].loss == last
    by_name = {effect.name: effect for effect in found.effects}
    assert by_name["fold-batch-norm"].loss == last
    assert by_name["capture"].loss != last
    assert last.changed is not None
    assert last.changed.total == 12
    assert by_name["fold-batch-norm"].max_error == pytest.approx(0, abs=1e-6)


def test_a_harmful_pass_shows_where_it_ran(watched: Callable[..., Watched]):
    plain = watched().effects[-1].loss
    float_harm = {effect.name: effect for effect in watched(floats=(Noise(2.0), Noise(0.0))).effects}
    assert float_harm["fuse-activation"].loss == plain
    assert float_harm["noise"].loss.sqnr < plain.sqnr - 3
    assert float_harm["noise#2"].loss == float_harm["noise"].loss == float_harm["clean-qdq"].loss
    integer_harm = {effect.name: effect for effect in watched(integers=(Zero(),)).effects}
    assert integer_harm["clean-qdq"].loss == plain
    assert integer_harm["zero"].loss.sqnr < 2
    assert integer_harm["zero"].changes == 2


def test_a_pass_that_is_rolled_back_has_its_certificate(watched: Callable[..., Watched]):
    effects = {effect.name: effect for effect in watched(floats=(Broken(0.5),)).effects}
    broken = effects["broken"]
    assert broken.rolled_back is not None
    assert broken.rolled_back.startswith("promised close but changed an output by ")
    assert broken.max_error is not None
    assert broken.max_error > 1e-4
    assert broken.loss == effects["fuse-activation"].loss


def test_only_evaluation_samples_are_unseen():
    spec, options = registry.get("onnx").spec, CompileOptions()
    fair = watch_compilation([spec], options, small_data(24), small_data(8))
    assert (fair.unseen, fair.judged.count) == (True, 8)
    held_out = watch_compilation([spec], options, small_data(24), None)
    assert (held_out.unseen, held_out.judged.count) == (False, 6)


def test_a_graph_that_cannot_be_quantized_yet_has_no_loss():
    options, spec = CompileOptions(keep_float=("no_such_node",)), registry.get("onnx").spec
    watch = PassWatch([spec], options, small_data(), small_data())
    prepare(small_model(), (small_images(2),), options, after=watch.float_pass)
    assert {effect.loss for effect in watch.effects("onnx")} == {None}
