import pytest
from fxedge.compiler.ir.errors import InputError
from fxedge.compiler.ir.stages import Stage
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.pipeline.recipes import RECIPES, make_recipe


def names(recipe: str) -> tuple[list[str], list[str]]:
    made = make_recipe(CompileOptions(recipe=recipe))
    return [item.name for item in (*made.plain, *made.floats)], [item.name for item in made.integers]


def test_recipes_are_literal_lists():
    assert names("fast") == (["canonicalize", "fold-batch-norm", "fuse-activation"], ["fix-saturation"])


@pytest.mark.parametrize("recipe", RECIPES)
def test_float_passes_stay_float_and_integer_passes_quantized(recipe: str):
    made = make_recipe(CompileOptions(recipe=recipe))
    assert {stage for item in (*made.plain, *made.floats) for stage in (item.requires, item.ensures)} == {
        Stage.FLOAT
    }
    assert {stage for item in made.integers for stage in (item.requires, item.ensures)} <= {Stage.QUANTIZED}


def test_an_unknown_recipe_is_told_with_those_there_are():
    with pytest.raises(InputError) as caught:
        make_recipe(CompileOptions(recipe="bset"))
    assert str(caught.value) == f"Unknown recipe 'bset'; allowed: {', '.join(RECIPES)}."
