"""What is measured of the models before a search begins: once, and then kept in its store."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.errors import RecipeError
from evomerge.genome.prior import by_part, relative_to_mean
from evomerge.layout import Component
from evomerge.merging.sources import SourceLibrary
from evomerge.search.strategies import BY_KINSHIP
from evomerge.sensitivity.cache import StatisticsCache
from evomerge.sensitivity.calibration import Calibration, read_texts
from evomerge.sensitivity.family import measure_family
from evomerge.sensitivity.statistics import statistic

if TYPE_CHECKING:
    from evomerge.checkpoints import Checkpoint
    from evomerge.genome.genes import Part
    from evomerge.genome.genome import Genome
    from evomerge.recipe.merge import Source
    from evomerge.recipe.search import SearchRecipe
    from evomerge.run.loop.loop import Progress
    from evomerge.store.database import RunStore

Gram = tuple[tuple[float, ...], ...]


def will_be_measured(recipe: SearchRecipe) -> list[str]:
    """Say in words what a search measures before it begins."""
    found = []
    if recipe.search.strategy in BY_KINSHIP:
        found.append("kinship of the sources, from their weights")
    if _wants_prior(recipe) and recipe.genome.prior and recipe.calibration:
        files = ", ".join(Path(file).name for file in recipe.calibration.files())
        most = f"at most {recipe.calibration.samples} documents each"
        found.append(f"{recipe.genome.prior.kind} of every source, on {files} ({most})")
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
        library = SourceLibrary(Path("/"))
        sources = [_model(source, library) for source in recipe.sources]
        count = partial(progress.measured, "kinship of the sources")
        family = measure_family(library.model(recipe.base), sources, progress=count)
        found = family.whole().products.tolist()
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
    if genome.prior is None or not _wants_prior(recipe):
        return genome
    found = store.fact("prior")
    if found is None:
        measured = {s.label: _measured(genome, s, recipe, progress) for s in genome.sources}
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


def _wants_prior(recipe: SearchRecipe) -> bool:
    return recipe.genome.prior is not None and any(recipe.genome.prior.trust)


def _measured(
    genome: Genome, source: Source, recipe: SearchRecipe, progress: Progress
) -> dict[Part, float]:
    """What is measured of each part of a source, per entry."""
    settings, prior = recipe.calibration, recipe.genome.prior
    file = settings.file(source.label) if settings else None
    if settings is None or file is None or prior is None:
        raise RecipeError(f"calibration.texts: has no file for {source.label}")
    texts = Calibration(
        texts=read_texts(Path(file)), samples=settings.samples, max_tokens=settings.max_tokens
    )
    model = _model(source, SourceLibrary(Path("/")))
    found = statistic(
        prior.kind,
        model,
        texts,
        StatisticsCache(),
        device=recipe.evaluation.device,
        progress=partial(progress.measured, f"{prior.kind} of {source.label}"),
    )
    sums = {
        name: (float(values.double().sum()), math.prod(model.headers[name].shape))
        for name, values in found.items()
    }
    return by_part(genome.rules, sums)


def _model(source: Source, library: SourceLibrary) -> Checkpoint:
    return library.model(source.model or "")
