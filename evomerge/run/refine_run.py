"""Refines the winner of a run that is there already."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.errors import RecipeError, RunError
from evomerge.live_model import choose_device, choose_dtype, load_checkpoint
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe import yaml
from evomerge.recipe.load import read_text, validate
from evomerge.recipe.merge import MergeRecipe
from evomerge.recipe.refine import Refinement
from evomerge.refinement.teachers.ensemble import asked_of
from evomerge.refinement.teachers.estimate import estimate
from evomerge.refinement.teachers.teacher import Teacher as LoadedTeacher
from evomerge.refinement.texts.examples import read_examples
from evomerge.refinement.texts.sequences import make_sequences
from evomerge.run.folder import RunFolder, recipe_of
from evomerge.run.preparation.students import check_refinement, models_of, teachers_of
from evomerge.run.search import start_or_continue
from evomerge.store.database import RunStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evomerge.recipe.distillation import Teacher
    from evomerge.recipe.search import SearchRecipe
    from evomerge.refinement.teachers.estimate import Estimate
    from evomerge.run.loop.loop import Progress
    from evomerge.run.search import Warn


def refine_run(
    run: Path, file: Path | None, overrides: Sequence[str], progress: Progress, warn: Warn
) -> None:
    """Refine the winner of a finished search.

    Args:
        run: The run folder.
        file: How to refine; None for what the run's own recipe says.
        overrides: `path.to.key=value` texts for it.
        progress: Told how far it is.
        warn: Told about every finding that is no error.

    Raises:
        EvomergeError: Anything that the user has to know; see `errors`.
    """
    start_or_continue(refined_recipe(run, file, overrides), Path("/"), run, progress, warn)


def refined_recipe(run: Path, file: Path | None, overrides: Sequence[str]) -> SearchRecipe:
    """The recipe of a finished run, with a refinement.

    Raises:
        RecipeError: The refinement is wrong, or there is none.
        RunError: The search has not finished.
    """
    with closing(RunStore.open_for_reading(RunFolder(run).database)) as store:
        recipe, finished = recipe_of(store), store.fact("state") == "finished"
    if not finished:
        raise RunError(
            f"{run}: the search has not finished, so there is no winner yet; first: "
            f"evomerge resume {run}"
        )
    sources = models_of(recipe.sources)
    if file is not None:
        return recipe.model_copy(update={"refine": read_refinement(file, overrides, sources)})
    if recipe.refine is None:
        raise RecipeError(
            f"{run}: its recipe has no refine block; say how to refine with --recipe FILE"
        )
    document = yaml.parse("{}", "--set")
    document.data.update(recipe.refine.model_dump(mode="json", exclude_unset=True))
    refinement = validate(Refinement, document, overrides).under(Path("/"), sources)
    return recipe.model_copy(update={"refine": refinement})


def read_refinement(
    file: Path, overrides: Sequence[str], sources: Mapping[str, str] | None = None
) -> Refinement:
    """Read how to refine from a file; the paths that are returned are absolute.

    Args:
        file: Has what a search recipe has under `refine`, or is such a recipe, of which only that
            block counts.
        overrides: `path.to.key=value` texts; paths begin in the block.
        sources: Models that a teacher may be called by their names.

    Raises:
        RecipeError: It is wrong.
    """
    document = yaml.parse(read_text(file), str(file))
    if isinstance(document.data, dict) and "refine" in document.data:
        document = document.under("refine")
    return validate(Refinement, document, overrides).under(file.resolve().parent, sources)


def estimate_run(run: Path, file: Path | None, overrides: Sequence[str]) -> list[str]:
    """What the teachers' caches would hold, in lines, measured on a few texts; see `refine_run`.

    Raises:
        EvomergeError: Anything that the user has to know; see `errors`.
    """
    recipe = refined_recipe(run, file, overrides)
    if recipe.refine is None:
        return []
    with closing(RunStore.open_for_reading(RunFolder(run).database)) as store:
        winner = store.fact("verdict")["winner"]
        found = next(each for each in store.entries() if each.candidate.digest == winner)
    student = MergeRecipe.model_validate_json(found.candidate.recipe)
    teachers, evaluation = teachers_of(recipe, recipe.refine), recipe.evaluation
    check_refinement(recipe.refine, student, teachers, evaluation.device)
    return estimate_teachers(recipe.refine, teachers, evaluation.device, evaluation.dtype)


def estimate_teachers(
    settings: Refinement, teachers: Sequence[Teacher], device: str = "auto", dtype: str = "auto"
) -> list[str]:
    """What the teachers' caches would hold, in lines, measured on a few texts.

    Args:
        settings: Which texts, and how they are read.
        teachers: The models.
        device: Device that runs them, or `auto`.
        dtype: Precision of forward passes, or `auto`.

    Raises:
        EvomergeError: A model or a text cannot be read.
    """
    if settings.cache is None:
        return ["cache: null: the teachers run beside the student, and nothing is kept of them"]
    library, chosen = SourceLibrary(Path("/")), choose_device(device)
    precision = choose_dtype(dtype, chosen)
    examples = read_examples(Path(settings.data.path)).examples
    lines, found = [], []
    for teacher, asked in zip(teachers, asked_of(settings, teachers, examples), strict=True):
        if not asked:
            lines.append(f"{teacher.label}: is asked of no text")
            continue
        own = [examples[number] for number in asked]
        model, tokenizer = load_checkpoint(library.model(teacher.model), precision, chosen)
        read = make_sequences(own, tokenizer, settings.data.max_tokens).sequences
        found.append(estimate(LoadedTeacher(model), read, len(tokenizer)))
        lines += _in_words(teacher.label, found[-1])
    enough = [each.enough for each in found if each.enough]
    if enough and len(enough) == len(found):
        lines.append(f"cache.k is {settings.cache.k}; {max(enough)} is enough for all teachers")
    return lines


def _in_words(label: str, found: Estimate) -> list[str]:
    advice = (
        f"cache.k: {found.enough} is enough"
        if found.enough
        else f"cache.k: {found.sizes[-1].k} leaves out too much; with loss.tail: text the rest is "
        "learned from the texts"
    )
    tokens = f"{label}: {found.rows:,} tokens to predict, {found.nll:.3f} nats each"
    return [
        f"{tokens} in {found.sequences} texts that were tried; {advice}",
        *(
            f"  k = {size.k:<4} {size.mass:8.3%} of the probability, {_bytes_in_words(size.bytes)}"
            for size in found.sizes
        ),
    ]


def _bytes_in_words(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"
