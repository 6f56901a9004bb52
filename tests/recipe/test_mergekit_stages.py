"""A lineage is split into merges of models, each made once and after those that it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recipe.mergekit_writing import make

from evomerge.recipe.digest import digest
from evomerge.recipe.mergekit.stages import NAME, Stage, stages

if TYPE_CHECKING:
    from evomerge.recipe.merge import MergeRecipe


def inside(recipe: MergeRecipe, **more: Any) -> dict[str, Any]:
    return {"recipe": recipe, **more}


PARENT = make("linear", "one", "two", weight=0.5)
MOTHER = make("slerp", inside(PARENT), "two", t=0.2)
FATHER = make("task_arithmetic", "one", inside(PARENT, name="p"), weight=1)
CHILD = make("ties", inside(MOTHER), inside(FATHER), weight=1, base_recipe=PARENT)


def models(stage: Stage) -> list[str | None]:
    return [source.model for source in stage.recipe.sources]


def test_a_recipe_of_models_is_one_stage():
    assert stages(PARENT) == [Stage(recipe=PARENT)]


def test_parents_that_are_shared_are_one_stage_before_all_that_need_it():
    parent, mother, father, child = stages(CHILD)
    assert [parent.recipe, parent.path] == [PARENT, "base_recipe"]
    assert models(mother) == [parent.name, "two"]
    assert models(father) == ["one", parent.name]
    assert models(child) == [mother.name, father.name]
    assert child.recipe.base == parent.name
    assert child.recipe.base_recipe is None
    assert child.name is None


def test_stages_are_called_by_their_digests():
    names = [stage.name for stage in stages(CHILD)[:-1]]
    assert names == [f"stage-{digest(each)[:12]}" for each in (PARENT, MOTHER, FATHER)]
    assert all(NAME.fullmatch(str(name)) for name in names)


def test_sources_keep_their_labels():
    _, mother, father, _ = stages(CHILD)
    assert [source.label for source in mother.recipe.sources] == [digest(PARENT), "two"]
    assert [source.label for source in father.recipe.sources] == ["one", "p"]


def test_a_stage_says_where_it_stands():
    found = [stage.path for stage in stages(make("linear", "one", inside(MOTHER)))]
    assert found == ["sources.1.recipe.sources.0.recipe", "sources.1.recipe", ""]
