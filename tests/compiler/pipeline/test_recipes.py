from fxedge.compiler.ir.stages import Stage
from fxedge.compiler.pipeline.recipes import RECIPES


def test_the_default_recipe_is_a_literal_list():
    assert [item.name for item in RECIPES["default"]] == ["canonicalize", "fold-batch-norm", "fuse-activation"]


def test_recipes_stay_in_the_float_stage():
    assert {item.ensures for recipe in RECIPES.values() for item in recipe} == {Stage.FLOAT}
    assert {item.requires for recipe in RECIPES.values() for item in recipe} == {Stage.FLOAT}
