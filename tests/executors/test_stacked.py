"""A worker runs models with other layers than the base's, as if they had been exported."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from evomerge.evaluation.scores.outcome import Evaluated
from evomerge.evaluation.tasks.items import TaskItems
from evomerge.evaluation.tasks.lm_eval_tasks import TaskSpec
from evomerge.executors.contract import Job
from evomerge.executors.worker import Worker, WorkerSettings
from evomerge.merging.export import export_checkpoint
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe.merge import MergeRecipe

if TYPE_CHECKING:
    from pathlib import Path

TASKS = ("tiny_choice", "tiny_answer")

ITSELF: list[Any] = [{"layers": {"one": [0, 2]}}]
DEEPER: list[Any] = [{"layers": {"two": [0, 2]}}, {"layers": {"one": [1, 2]}}]
SHALLOWER: list[Any] = [{"layers": {"one": [1, 2]}}]
CROSSED: list[Any] = [{"layers": {"two": [0, 1]}}, {"layers": {"one": [0, 1]}}]
SCALE = [
    {"value": 0.5, "layers": [0, 1], "tensor": "o_proj"},
    {"value": 1.5, "layers": [0, 1], "tensor": "down_proj"},
    {"value": 1.0},
]


def worker(root: Path, base: str) -> Worker:
    family = root if (root / "tasks").exists() else root.parent
    return Worker(
        WorkerSettings(
            root=str(root),
            base=base,
            tasks=[TaskSpec(name=name, include_path=str(family / "tasks")) for name in TASKS],
            items=[TaskItems(task=name, search=tuple(range(8)), held_out=(9,)) for name in TASKS],
            rungs=(),
            batch_tokens=512,
            dtype="float32",
            device="cpu",
            threads=1,
        )
    )


def recipe(stack: list[Any] | None, scale: object = 1.0) -> MergeRecipe:
    labels = [name for name in ("one", "two") if stack is None or name in json.dumps(stack)]
    return MergeRecipe.model_validate(
        {
            "base": "base",
            "sources": labels[:1] if stack is None else labels,
            "operator": "passthrough",
            "parameters": {"scale": scale},
            "stack": stack,
            "dtype": "float32",
        }
    )


def numbers(worker: Worker, wanted: MergeRecipe) -> list[Any]:
    """What decides the scores: log-likelihoods would hide in rounded accuracies."""
    outcome = worker.evaluate(Job(number=0, recipe=wanted, split="search"))
    assert isinstance(outcome, Evaluated), outcome
    return [(score.score, score.items) for score in outcome.scores]


def answers(worker: Worker, wanted: MergeRecipe) -> list[Any]:
    """What the model that a recipe is merged into says to the items."""
    live = worker._live(wanted)
    live.weights.merge(wanted)
    (plan,) = live.evaluator.prepare("search")
    return plan.run()


@pytest.mark.parametrize(
    ("stack", "scale"),
    [(DEEPER, 1.0), (SHALLOWER, 1.0), (CROSSED, 1.0), (DEEPER, SCALE)],
    ids=["deeper", "shallower", "crossed", "scaled"],
)
def test_a_stacked_model_answers_as_its_checkpoint_does(
    family: Path, tmp_path: Path, stack: list[Any], scale: object
) -> None:
    wanted = recipe(stack, scale)
    export_checkpoint(wanted, SourceLibrary(family), tmp_path / "out")
    (tmp_path / "tasks").symlink_to(family / "tasks")
    exported = worker(tmp_path, "out")
    itself = MergeRecipe.model_validate(
        {"base": "out", "sources": ["out"], "operator": "linear", "dtype": "float32"}
    )
    live = worker(family, "base")
    assert answers(live, wanted) == answers(exported, itself)
    assert numbers(live, wanted) == numbers(exported, itself)


def test_a_sources_own_layers_are_the_source_bit_for_bit(family: Path) -> None:
    live = worker(family, "base")
    assert answers(live, recipe(ITSELF)) == answers(live, recipe(None))


def test_depths_may_alternate(family: Path) -> None:
    live = worker(family, "base")
    first = [answers(live, recipe(stack)) for stack in (DEEPER, None, SHALLOWER)]
    again = [answers(live, recipe(stack)) for stack in (SHALLOWER, None, DEEPER)]
    assert first == again[::-1]
    assert first[0] != first[1] != first[2]
