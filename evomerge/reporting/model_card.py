"""The card of an exported model: what it was made of, and how it scored on held-out items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evomerge.recipe.merge import MergeRecipe
from evomerge.reporting.leaderboard import find_row
from evomerge.reporting.learning_curve import best, learning_curve, table

if TYPE_CHECKING:
    from collections.abc import Sequence

RECIPE_FILE = "evomerge.yaml"
EVOMERGE = "[evomerge](https://pypi.org/project/evomerge/)"
REBUILT = "What was trained is one of the sources of its recipe."


def model_card(document: dict[str, Any], row: dict[str, Any], recipe: MergeRecipe) -> str:
    """A card for the Hub.

    Args:
        document: The leaderboard of the run.
        row: The candidate's row in it.
        recipe: Its recipe.

    Returns:
        Markdown with front matter; folders of this machine are called by their last part.
    """
    merge, how, course = recipe, "", None
    if row["kind"] == "refined":
        # What was trained is no source of the merge.
        student = find_row(document, row["parents"][0])
        merge, how = (
            MergeRecipe.model_validate(student["recipe"]),
            f" It was refined by distillation. {REBUILT}",
        )
        course = (document["refinement"] or {}).get("courses", {}).get(row["candidate"])
    found = f"A merge of {_made_of(merge)}, found by {EVOMERGE}.{how}"
    return _card(
        row["name"] or row["candidate"],
        recipe,
        [found, "", *_scores(document, row), *_losses(course)],
    )


def refined_card(
    recipe: MergeRecipe,
    student: MergeRecipe,
    teachers: Sequence[str],
    courses: Sequence[dict[str, Any]],
    name: str,
) -> str:
    """The card of a model that was refined without a search.

    Args:
        recipe: Its recipe.
        student: What it was before.
        teachers: The names of those it learned from.
        courses: How it was trained; of a merge of several students, how each was.
        name: Its own.
    """
    found = f"{_made_of(student)}, refined with {EVOMERGE} by distillation from "
    losses = [line for course in courses for line in _losses(course)]
    return _card(name, recipe, [f"{found}{_list(list(teachers))}. {REBUILT}", "", *losses])


def _card(name: str, recipe: MergeRecipe, about: list[str]) -> str:
    from huggingface_hub import ModelCardData

    models = sorted(_models(recipe))
    data = ModelCardData(
        base_model=[model for model in models if not _is_folder(model)] or None,
        base_model_relation="merge",
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["merge", "evomerge"],
    )
    lines = [
        "---",
        data.to_yaml(),
        "---",
        "",
        f"# {name}",
        "",
        *about,
        f"`{RECIPE_FILE}` beside the weights rebuilds the model from its sources.",
        "",
    ]
    return "\n".join(lines)


def _scores(document: dict[str, Any], row: dict[str, Any]) -> list[str]:
    """A table of held-out scores, and what the search found out."""
    rows = [each for each in document["candidates"] if each["held_out_scores"]]
    if row not in rows:
        return ["It has not been scored on held-out items.", ""]
    tasks = list(row["held_out_scores"])
    lines = [
        "Scores on held-out items, which chose nothing:",
        "",
        f"| model | {' | '.join(tasks)} | all |",
        f"| --- {'| ---: ' * (len(tasks) + 1)}|",
    ]
    for each in [row, *(other for other in rows if other is not row)]:
        name = "this model" if each is row else each["name"] or each["candidate"]
        scores = [f"{each['held_out_scores'][task]:.3f}" for task in tasks]
        lines.append(f"| {name} | {' | '.join(scores)} | {each['held_out_score']:.3f} |")
    verdict = document["verdict"]
    if verdict and find_row(document, verdict["winner"]) is row:
        lines += ["", *(f"{line}  " for line in verdict["text"].splitlines())]
    return [*lines, ""]


def _losses(course: dict[str, Any] | None) -> list[str]:
    """A table of the losses of a training, if it had texts set aside."""
    points = learning_curve(course)
    if not course or not points:
        return []
    return [
        (
            f"Losses of its training, {course['steps']} steps that read {course['tokens']:,} "
            "tokens: on the texts that it learned from, the mean since the row above, and on "
            f"texts set aside, which chose the weights after step {best(points).step}."
        ),
        "",
        "| step | texts | set aside |",
        "| ---: | ---: | ---: |",
        *(f"| {' | '.join(cells)} |" for cells in table(points)),
        "",
    ]


def _models(recipe: MergeRecipe) -> set[str]:
    """All models and adapters that a recipe with absolute paths is made of."""
    found = {recipe.base, *(source.model for source in recipe.sources if source.model)}
    alone = {part for model in found for part in model.replace("+/", "\n/").split("\n")}
    return alone.union(*(_models(inner) for inner in recipe.inner))


def _made_of(recipe: MergeRecipe) -> str:
    return _list(sorted(map(_called, _models(recipe))))


def _is_folder(model: str) -> bool:
    return model.startswith("/")


def _called(model: str) -> str:
    return model.rpartition("/")[2] if _is_folder(model) else model


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
