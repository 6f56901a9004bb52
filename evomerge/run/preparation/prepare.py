"""From a search recipe to everything a search needs, checked before any work is done."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from evomerge.checkpoints import (
    Checkpoint,
    Finding,
    check_family,
    resolve_reference,
    tokenizer_digest,
)
from evomerge.checkpoints.tokenizer import chat_template
from evomerge.errors import EvomergeError, RecipeError
from evomerge.evaluation.backends.contract import check_backend
from evomerge.genome.baselines import starting_candidates
from evomerge.genome.build import build_genome
from evomerge.live_model import choose_device
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe.merge import MergeRecipe, Source
from evomerge.recipe.paths import absolute
from evomerge.refinement.texts.examples import in_words, read_examples
from evomerge.run.preparation.leakage import refuse_items
from evomerge.run.preparation.scoring import (
    Contents,
    Scoring,
    check_chat_template,
    scoring,
    with_tasks_of_groups,
)
from evomerge.run.preparation.strategy_checks import check_path, check_strategy
from evomerge.run.preparation.students import check_refinement, models_of, teachers_of
from evomerge.search.strategies import BREEDERS
from evomerge.sensitivity.calibration import Calibration, read_texts

if TYPE_CHECKING:
    from collections.abc import Callable

    from evomerge.evaluation.scores.objective import Objective
    from evomerge.evaluation.tasks.items import TaskItems
    from evomerge.genome.genome import Genome
    from evomerge.recipe.search import SearchRecipe
    from evomerge.sensitivity.calibration import Prompted

Result = TypeVar("Result")

SMALL_GENERATION = 8
"""With 48 candidates these found as much as 16 and 3 points more than 32 (benchmarks/LOG.md)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedSearch:
    """Everything a search needs except workers and a store.

    Attributes:
        recipe: The recipe, its paths made absolute.
        genome: Which merges it can reach.
        objective: What it maximises.
        items: The items of each task.
        contents: What these items are.
        identities: Fingerprint of each model, by its reference, and of each file of texts.
        parameters: Number of the base model's parameters.
        tokenizer: Digest of what the base's tokenizer does, and its chat template.
    """

    recipe: SearchRecipe
    genome: Genome
    objective: Objective
    items: tuple[TaskItems, ...]
    contents: Contents
    identities: dict[str, str]
    parameters: int
    tokenizer: str


@dataclass(slots=True)
class Preparation:
    """What checking a search recipe found.

    Attributes:
        findings: Errors and warnings, in the order of the checks.
        search: The prepared search; None if any finding is an error.
    """

    findings: list[Finding] = field(default_factory=list)
    search: PreparedSearch | None = None

    @property
    def errors(self) -> list[Finding]:
        """The findings that stop a search."""
        return [finding for finding in self.findings if finding.severity == "error"]

    def attempt(self, where: str, action: Callable[[], Result]) -> Result | None:
        """Do something; what it raises on purpose becomes findings."""
        try:
            return action()
        except EvomergeError as error:
            for line in str(error).splitlines():
                self.findings.append(
                    Finding(severity="error", where=where, message=line, remedy="")
                )
            return None


def check_search(recipe: SearchRecipe, root: Path) -> Preparation:
    """Check a search recipe against its models and tasks, reading headers and task files only.

    Args:
        recipe: The recipe.
        root: Folder that its relative paths start from.
    """
    result = Preparation()
    recipe = _with_absolute_texts(_with_absolute_tasks(recipe, root), root)
    recipe = _with_absolute_run(recipe, root)
    refine = recipe.refine
    if refine is not None:
        sources = models_of(recipe.sources)
        refined = result.attempt("refine", lambda: refine.under(root, sources))
        recipe = recipe.model_copy(update={"refine": refined or refine})
    library = SourceLibrary(root)
    base = result.attempt("base", lambda: library.model(recipe.base))
    models = [
        result.attempt(f"sources.{index}", lambda s=source: library.model(_model(s)))  # type: ignore[misc]
        for index, source in enumerate(recipe.sources)
    ]
    opened = [model for model in models if model is not None]
    if base is not None:
        result.findings.extend(check_family(base, opened))
        result.attempt("genome", lambda: _genome(recipe, base))
    texts = result.attempt("calibration", lambda: _texts(recipe))
    if recipe.executor.address is None:
        result.attempt("evaluation", lambda: choose_device(recipe.evaluation.device))
        result.attempt("evaluation", lambda: check_backend(recipe.evaluation.backend))
    if base is not None:
        result.attempt("evaluation", lambda: check_chat_template(recipe, base))
    result.attempt("search.strategy", lambda: check_strategy(recipe))
    result.attempt("genome.path", lambda: check_path(recipe))
    _warn_of_budget(recipe, result)
    single = result.attempt("evaluation", lambda: with_tasks_of_groups(recipe))
    scored = single and result.attempt("evaluation", lambda: scoring(single))
    if single and scored:
        held_out = scored.contents.held_out_in_words
        result.attempt(
            "calibration",
            lambda: refuse_items(held_out, texts or {}, "calibration.texts", "held-out"),
        )
        if recipe.refine is not None:
            result.attempt("refine", lambda: _check_refinement(recipe, scored.contents, library))
        final = _without_racing(single, scored.uneven, result) if scored.uneven else single
        if base is not None and not result.errors:
            result.search = _assemble(final, root, base, opened, scored)
    return result


def _check_refinement(recipe: SearchRecipe, contents: Contents, library: SourceLibrary) -> None:
    if recipe.refine is None:
        return
    for teacher in recipe.refine.teachers or ():
        library.model(teacher.model)
    operators = recipe.genome.operator
    first = operators if isinstance(operators, str) else operators[0]
    sources = tuple(Source(model=_model(each), name=each.label) for each in recipe.sources)
    student = MergeRecipe(base=recipe.base, sources=sources, operator=first)
    teachers, device = teachers_of(recipe, recipe.refine), recipe.evaluation.device
    check_refinement(recipe.refine, student, teachers, device)
    path = recipe.refine.data.path
    texts = {path: in_words(read_examples(Path(path)).examples)}
    refuse_items(contents.choosing_in_words, texts, "data", "search")
    refuse_items(contents.held_out_in_words, texts, "data", "held-out")


def _without_racing(recipe: SearchRecipe, task: str, result: Preparation) -> SearchRecipe:
    """The recipe without races, which need scores that are means; say so if they were wanted."""
    if recipe.evaluation.racing is None:
        return recipe
    asked = "racing" in recipe.evaluation.model_fields_set
    result.findings.append(
        Finding(
            severity="error" if asked else "warning",
            where="evaluation.racing",
            message=f"the score of {task} is no mean over items, so a part of them tells little",
            remedy="write racing: null" if asked else "every candidate is scored on all items",
        )
    )
    evaluation = recipe.evaluation.model_copy(update={"racing": None})
    return recipe.model_copy(update={"evaluation": evaluation})


def _warn_of_budget(recipe: SearchRecipe, result: Preparation) -> None:
    least = len(starting_candidates(recipe.base, recipe.sources, recipe.dtype))
    start = f"base, sources and baselines are {least}"
    if recipe.search.strategy in BREEDERS:
        least += len(recipe.sources)
        start += f" and the first population is the {len(recipe.sources)} sources again"
    offspring, generation = recipe.search.candidates - least, recipe.search.generation
    if offspring <= 0:
        where = "search.candidates"
        message = f"{recipe.search.candidates}, but {start}"
        remedy = "these are evaluated and nothing else"
    elif offspring < 2 * generation and generation > SMALL_GENERATION:
        where = "search.generation"
        message = f"{offspring} offspring are less than two generations of {generation}"
        remedy = f"the search learns more from generations of {SMALL_GENERATION}"
    else:
        return
    result.findings.append(
        Finding(severity="warning", where=where, message=message, remedy=remedy)
    )


def prepare_search(recipe: SearchRecipe, root: Path) -> tuple[PreparedSearch, list[Finding]]:
    """Check a search recipe and prepare it.

    Returns:
        The prepared search and the warnings.

    Raises:
        RecipeError: There are errors; the message names every one, one per line.
    """
    result = check_search(recipe, root)
    if result.search is None:
        raise RecipeError("\n".join(describe(error) for error in result.errors))
    return result.search, result.findings


def describe(finding: Finding) -> str:
    """A finding in one line."""
    remedy = f"; {finding.remedy}" if finding.remedy else ""
    return f"{finding.where}: {finding.message}{remedy}"


def _assemble(
    recipe: SearchRecipe,
    root: Path,
    base: Checkpoint,
    sources: list[Checkpoint],
    scored: Scoring,
) -> PreparedSearch:
    recipe = _with_absolute_models(recipe, root)
    references = [recipe.base, *map(_model, recipe.sources)]
    return PreparedSearch(
        recipe=recipe,
        genome=_genome(recipe, base),
        objective=scored.objective,
        items=scored.items,
        contents=scored.contents,
        identities={
            reference: checkpoint.identity()
            for reference, checkpoint in zip(references, [base, *sources], strict=True)
        }
        | {file: Calibration(texts=texts).digest() for file, texts in _texts(recipe).items()},
        parameters=sum(math.prod(header.shape) for header in base.headers.values()),
        tokenizer=f"{tokenizer_digest(base.folder)} {chat_template(base.folder)}",
    )


def _with_absolute_tasks(recipe: SearchRecipe, root: Path) -> SearchRecipe:
    evaluation = recipe.evaluation
    tasks = tuple(
        task.model_copy(update={"text": task.text and absolute(task.text, root)})
        for task in evaluation.tasks
    )
    folder = evaluation.include_path
    update = {"include_path": folder and absolute(folder, root), "tasks": tasks}
    return recipe.model_copy(update={"evaluation": evaluation.model_copy(update=update)})


def _with_absolute_texts(recipe: SearchRecipe, root: Path) -> SearchRecipe:
    if recipe.calibration is None:
        return recipe
    calibration = recipe.calibration.under(root)
    return recipe.model_copy(update={"calibration": calibration})


def _with_absolute_run(recipe: SearchRecipe, root: Path) -> SearchRecipe:
    if recipe.search.warm_start is None:
        return recipe
    update = {"warm_start": absolute(recipe.search.warm_start, root)}
    return recipe.model_copy(update={"search": recipe.search.model_copy(update=update)})


def _texts(recipe: SearchRecipe) -> dict[str, tuple[str | Prompted, ...]]:
    """The calibration texts by their file."""
    files = recipe.calibration.files() if recipe.calibration else ()
    return {file: read_texts(Path(file)) for file in files}


def _with_absolute_models(recipe: SearchRecipe, root: Path) -> SearchRecipe:
    sources = tuple(
        source.model_copy(
            update={"model": resolve_reference(_model(source), root=root), "name": source.label}
        )
        for source in recipe.sources
    )
    base = resolve_reference(recipe.base, root=root)
    return recipe.model_copy(update={"base": base, "sources": sources})


def _model(source: Source) -> str:
    if source.model is None:
        raise RecipeError("a search merges models; export this candidate as a checkpoint first")
    return source.model


def _genome(recipe: SearchRecipe, base: Checkpoint) -> Genome:
    return build_genome(
        base=recipe.base,
        sources=recipe.sources,
        space=recipe.genome,
        # Integers are copied, not merged.
        tensors=[n for n, header in base.headers.items() if header.dtype.is_floating_point],
        dtype=recipe.dtype,
        seed=recipe.search.seed,
        calibration=recipe.calibration,
    )
