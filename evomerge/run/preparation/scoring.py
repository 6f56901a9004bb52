"""What candidates are scored on: from a recipe's tasks to lm-eval's, and to the items of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evomerge.checkpoints.tokenizer import chat_template
from evomerge.errors import TaskError
from evomerge.evaluation.scores.objective import Objective
from evomerge.evaluation.tasks.items import TaskItems, draw_items
from evomerge.evaluation.tasks.lm_eval_tasks import HarnessTask, TaskSpec
from evomerge.evaluation.tasks.task_files import tasks_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.checkpoints import Checkpoint
    from evomerge.evaluation.scores.outcome import Split
    from evomerge.recipe.search import SearchRecipe, Task


def with_tasks_of_groups(recipe: SearchRecipe) -> SearchRecipe:
    """The recipe with the tasks of its groups, which share the group's weight.

    Raises:
        TaskError: A task does not exist, cannot be loaded, or is there twice.
    """
    evaluation = recipe.evaluation
    tasks: list[Task] = []
    for task in evaluation.tasks:
        if task.text is not None:
            tasks.append(task)
            continue
        names = tasks_of(
            task.name,
            evaluation.include_path,
            allow_code=evaluation.allow_task_code,
            allow_generated_code=evaluation.allow_generated_code,
        )
        share = {"weight": task.weight / len(names)}
        tasks += [task.model_copy(update={"name": name} | share) for name in names]
    names = [task.name for task in tasks]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise TaskError(f"task {repeated[0]}: is listed twice, once by a group; leave one out")
    return recipe.model_copy(
        update={"evaluation": evaluation.model_copy(update={"tasks": tuple(tasks)})}
    )


def check_chat_template(recipe: SearchRecipe, base: Checkpoint) -> None:
    """Check that there is a chat template if a task asks for one.

    Raises:
        TaskError: There is none.
    """
    wanting = [task.name for task in recipe.evaluation.tasks if task.chat_template]
    if wanting and chat_template(base.folder) is None:
        raise TaskError(
            f"task {wanting[0]}: asks for a chat template, and the base's tokenizer has none"
        )


def task_specs(recipe: SearchRecipe) -> list[TaskSpec]:
    """The recipe's tasks, as the evaluation room knows them."""
    evaluation = recipe.evaluation
    return [
        TaskSpec(
            name=task.name,
            text=task.text,
            metric=task.metric,
            num_fewshot=task.num_fewshot,
            chat_template=task.chat_template,
            fewshot_as_multiturn=task.fewshot_as_multiturn,
            system_instruction=task.system_instruction,
            generation=task.generation.model_dump(exclude_none=True),
            include_path=evaluation.include_path,
            allow_code=evaluation.allow_task_code,
            allow_generated_code=evaluation.allow_generated_code,
        )
        for task in evaluation.tasks
    ]


ID_LENGTH = 16
"""Digits of a document's digest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """What the items of a search are, whatever their tasks are called and wherever they lie.

    Attributes:
        choosing: Digests of the documents that decide something, search and confirm items.
        held_out: Digests of those that only the final comparison sees.
        tasks: A digest of all that scores on the search items of a task follow from.
        held_out_in_words: The held-out items as their readers know them; empty unless the recipe
            has texts, which must not contain them.
        choosing_in_words: The search and confirm items, likewise.
    """

    choosing: tuple[str, ...]
    held_out: tuple[str, ...]
    tasks: dict[str, str]
    held_out_in_words: tuple[str, ...] = ()
    choosing_in_words: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Scoring:
    """What a search is scored by.

    Attributes:
        objective: What it maximises.
        items: The items of each task.
        contents: What these items are.
        uneven: A task whose score is no mean over its items, if there is one; it cannot be
            estimated from some of them.
    """

    objective: Objective
    items: tuple[TaskItems, ...]
    contents: Contents
    uneven: str | None


def scoring(recipe: SearchRecipe) -> Scoring:
    """The objective of a recipe and the items of its tasks.

    Raises:
        TaskError: A task, metric or setting is wrong, or there are too few items.
    """
    wanted = recipe.evaluation.items
    tasks = [HarnessTask(spec) for spec in task_specs(recipe)]
    uneven = next((task.name for task in tasks if not task.is_mean), None)
    objective = Objective(
        weights={task.name: task.weight for task in recipe.evaluation.tasks},
        higher_is_better={task.name: task.higher_is_better for task in tasks},
        name=recipe.evaluation.objective,
    )
    documents = [task.document_digests() for task in tasks]
    items = tuple(
        draw_items(
            task.name,
            of_task,
            search=wanted.search,
            confirm=wanted.confirm,
            held_out=wanted.held_out,
            seed=wanted.seed,
        )
        for task, of_task in zip(tasks, documents, strict=True)
    )
    for task, drawn in zip(tasks, items, strict=True):
        task.try_out(drawn.search[0])
    contents = Contents(
        choosing=_of_all(documents, [drawn.of("confirm") for drawn in items]),
        held_out=_of_all(documents, [drawn.held_out for drawn in items]),
        tasks={
            task.name: task.digest([of_task[position] for position in drawn.search])
            for task, of_task, drawn in zip(tasks, documents, items, strict=True)
        },
        held_out_in_words=_in_words(tasks, items, "held_out")
        if recipe.calibration or recipe.refine
        else (),
        choosing_in_words=_in_words(tasks, items, "confirm") if recipe.refine else (),
    )
    return Scoring(objective=objective, items=items, contents=contents, uneven=uneven)


def _in_words(
    tasks: Sequence[HarnessTask], items: Sequence[TaskItems], split: Split
) -> tuple[str, ...]:
    pairs = zip(tasks, items, strict=True)
    return tuple(words for task, drawn in pairs for words in task.in_words(drawn.of(split)))


def _of_all(
    documents: Sequence[Sequence[str]], positions: Sequence[Sequence[int]]
) -> tuple[str, ...]:
    """The digests of some documents of each task, shortened: a run keeps hundreds of them."""
    pairs = zip(documents, positions, strict=True)
    return tuple(of_task[position][:ID_LENGTH] for of_task, chosen in pairs for position in chosen)
