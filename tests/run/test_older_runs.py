"""Promise: a run of an older version goes on, whatever it wrote down of settings."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from evomerge.recipe.search import SearchRecipe
from evomerge.run.folder import recipe_of
from evomerge.store.database import RunStore

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = {
    "base": "base",
    "sources": ["one", "two"],
    "evaluation": {"tasks": ["task"]},
    "genome": {"operator": "linear"},
}


@pytest.mark.parametrize(
    ("refine", "before"),
    [
        ({"loss": {"kind": "alm"}}, {"loss": {"tail": "ghost"}}),
        ({"train": {"what": "coefficients"}}, {"train": {"warmup": 0.2, "layers": [0, 1]}}),
    ],
)
def test_settings_that_change_nothing_are_forgotten(
    tmp_path: Path, refine: dict[str, Any], before: dict[str, Any]
) -> None:
    recipe = SearchRecipe.model_validate(
        RECIPE | {"refine": {"data": {"path": "/texts.jsonl"}, **refine}}
    )
    document = recipe.model_dump(mode="json")
    for part, settings in before.items():
        document["refine"][part] |= settings
    with closing(RunStore.create(tmp_path / "run.sqlite")) as store:
        store.write_facts({"recipe": document})
        assert recipe_of(store) == recipe


def test_a_run_from_before_racing_has_none(tmp_path: Path) -> None:
    document = SearchRecipe.model_validate(RECIPE).model_dump(mode="json")
    del document["evaluation"]["racing"]
    with closing(RunStore.create(tmp_path / "run.sqlite")) as store:
        store.write_facts({"recipe": document})
        assert recipe_of(store).evaluation.racing is None
