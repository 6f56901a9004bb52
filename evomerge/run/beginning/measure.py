"""What is measured of the models before a search begins: once, and then kept in its store."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.errors import RecipeError
from evomerge.genome.prior import by_part, part_inside, relative_to_mean
from evomerge.layout import Component
from evomerge.merging.sources import SourceLibrary
from evomerge.search.strategies import BY_KINSHIP
from evomerge.sensitivity.cache import StatisticsCache
from evomerge.sensitivity.calibration import Calibration, read_texts
from evomerge.sensitivity.family import measure_family
from evomerge.sensitivity.moments import add_up
from evomerge.sensitivity.statistics import statistic

if TYPE_CHECKING:
    from evomerge.checkpoints import Checkpoint
    from evomerge.genome.genes import Part
    from evomerge.genome.genome import Genome
    from evomerge.recipe.merge import Source
    from evomerge.recipe.prior import PriorKind, PriorSettings
    from evomerge.recipe.search import SearchRecipe
    from evomerge.run.loop.loop import Progress
    from evomerge.sensitivity.family import FamilyStatistics
    from evomerge.sensitivity.moments import DeltaMoments
    from evomerge.sensitivity.statistics import Kind
    from evomerge.store.database import RunStore

Gram = tuple[tuple[float, ...], ...]


def will_be_measured(recipe: SearchRecipe) -> list[str]:
    """Say in words what a search measures before it begins."""
    found = []
    if recipe.search.strategy in BY_KINSHIP:
        found.append("kinship of the sources, from their weights")
    prior = _followed(recipe)
    if prior is not None and not prior.of_texts:
        found.append(f"{prior.kind} of the sources in each part, from their weights")
    elif prior is not None and recipe.calibration:
        files = ", ".join(Path(file).name for file in recipe.calibration.files())
        most = f"at most {recipe.calibration.samples} documents each"
        found.append(f"{prior.kind} of every source, on {files} ({most})")
    return found


def measured_gram(recipe: SearchRecipe, store: RunStore, progress: Progress) -> Gram | None:
    """The inner products of the sources' task vectors; None if the strategy needs none.

    Raises:
        ModelError: A tensor cannot be read, or is not finite.
    """
    if recipe.search.strategy not in BY_KINSHIP:
        return None
    found = store.fact("gram")
    if found is None:
        found = _family(recipe, progress).whole().products.tolist()
        store.write_facts({"gram": found})
    return tuple(map(tuple, found))


def measured_genome(
    genome: Genome, recipe: SearchRecipe, store: RunStore, progress: Progress
) -> Genome:
    """The genome with its prior measured; as it is if it has none, or one that is not trusted.

    Raises:
        ModelError: A model cannot be run.
        EvaluationError: The texts cannot be used, or what is measured is not finite.
    """
    settings = _followed(recipe)
    if genome.prior is None or settings is None:
        return genome
    found = store.fact("prior")
    if found is None:
        measured = _measured(genome, settings.kind, recipe, progress)
        found = {
            label: [[group, part and part.value, value] for (group, part), value in of.items()]
            for label, of in measured.items()
        }
        store.write_facts({"prior": found})
    relative = tuple(
        relative_to_mean({(g, c and Component(c)): value for g, c, value in found[source.label]})
        for source in genome.sources
    )
    return replace(genome, prior=replace(genome.prior, relative=relative))


def _followed(recipe: SearchRecipe) -> PriorSettings | None:
    """The prior of a recipe, if weights or steps follow it at all."""
    prior = recipe.genome.prior
    return prior if prior is not None and any((*prior.trust, prior.steps)) else None


def _measured(
    genome: Genome, kind: PriorKind, recipe: SearchRecipe, progress: Progress
) -> dict[str, dict[Part, float]]:
    """What is measured of each part of each source, by the source's name."""
    if kind == "kinship":
        return _distinctness(genome, recipe, progress)
    return {s.label: _on_texts(genome, s, recipe, kind, progress) for s in genome.sources}


def _distinctness(
    genome: Genome, recipe: SearchRecipe, progress: Progress
) -> dict[str, dict[Part, float]]:
    """How little akin each part of each source is to the others, from their weights."""
    moments: dict[Part, list[DeltaMoments]] = {}
    for name, found in _family(recipe, progress).tensors.items():
        part = part_inside(genome.rules, name)
        if part is not None:
            moments.setdefault(part, []).append(found)
    distinct = {part: add_up(parts).distinctness.tolist() for part, parts in moments.items()}
    return {
        source.label: {part: values[index] for part, values in distinct.items()}
        for index, source in enumerate(genome.sources)
    }


def _family(recipe: SearchRecipe, progress: Progress) -> FamilyStatistics:
    library = SourceLibrary(Path("/"))
    sources = [_model(source, library) for source in recipe.sources]
    count = partial(progress.measured, "kinship of the sources")
    return measure_family(library.model(recipe.base), sources, progress=count)


def _on_texts(
    genome: Genome, source: Source, recipe: SearchRecipe, kind: Kind, progress: Progress
) -> dict[Part, float]:
    """What is measured of each part of a source, per entry."""
    settings = recipe.calibration
    file = settings.file(source.label) if settings else None
    if settings is None or file is None:
        raise RecipeError(f"calibration.texts: has no file for {source.label}")
    texts = Calibration(
        texts=read_texts(Path(file)), samples=settings.samples, max_tokens=settings.max_tokens
    )
    model = _model(source, SourceLibrary(Path("/")))
    found = statistic(
        kind,
        model,
        texts,
        StatisticsCache(),
        device=recipe.evaluation.device,
        progress=partial(progress.measured, f"{kind} of {source.label}"),
    )
    sums = {
        name: (float(values.double().sum()), math.prod(model.headers[name].shape))
        for name, values in found.items()
    }
    return by_part(genome.rules, sums)


def _model(source: Source, library: SourceLibrary) -> Checkpoint:
    return library.model(source.model or "")
