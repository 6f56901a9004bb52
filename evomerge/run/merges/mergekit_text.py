"""Writes a recipe as the text of a mergekit file, a lineage as one document for each merge in it.

`mergekit-multi` stores what it makes of one document before the next reads it. So do we: a merge
inside another is rounded to the dtype that its recipe stores, here as there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evomerge.errors import RecipeError
from evomerge.merging.plan import Signature, make_plan
from evomerge.recipe.dump import to_yaml
from evomerge.recipe.mergekit.obstacles import notes_on_donor
from evomerge.recipe.mergekit.stages import Stage, stages
from evomerge.recipe.mergekit.write import check_method, to_mergekit

if TYPE_CHECKING:
    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.merge import MergeRecipe

Signatures = Mapping[str, Signature]

# Of a relative folder, mergekit asks the Hub.
PROGRAM = "give this file to mergekit-multi, with --out-path and an absolute --intermediate-dir"
READ_BACK = (
    "evomerge reads this file as a recipe of another digest, for mergekit spells out defaults and "
    "names no sources; its tensors are the same, those drawn at random apart"
)


def mergekit_text(recipe: MergeRecipe, library: SourceLibrary) -> tuple[str, tuple[str, ...]]:
    """A recipe as mergekit YAML.

    Returns:
        The text, and how mergekit's result differs and is made, where that is not plain.

    Raises:
        RecipeError: mergekit cannot express it.
    """
    writer, lineage = _Writer(library), stages(recipe)
    # From the outside in: to replace an ancestor would not help where an heir is the obstacle.
    for stage in reversed(lineage):
        with _naming(stage):
            check_method(stage.recipe)
    documents = [writer.document(stage) for stage in lineage]
    texts = [to_yaml(document) for document in documents]
    notes = [*notes_on_donor(recipe, writer.donor(None)), *writer.notes]
    if len(texts) > 1:
        notes += [PROGRAM, READ_BACK]
    return "---\n".join(texts), tuple(notes)


@contextmanager
def _naming(stage: Stage) -> Iterator[None]:
    """Say of an ancestor that cannot be expressed which it is, and what to do instead."""
    try:
        yield
    except RecipeError as error:
        if stage.name is None:
            raise
        raise RecipeError(
            f"{stage.path} ({stage.name.removeprefix('stage-')}): {error}; export that merge as a "
            "checkpoint and name its folder in place of it"
        ) from None


@dataclass(slots=True)
class _Writer:
    """Writes stages one by one.

    Attributes:
        library: Opens models.
        notes: How mergekit's tensors differ.
    """

    library: SourceLibrary
    notes: dict[str, None] = field(default_factory=dict)
    _made: dict[str, Signatures] = field(default_factory=dict)
    _donors: dict[str | None, str | None] = field(default_factory=dict)

    def document(self, stage: Stage) -> dict[str, Any]:
        """The document of a stage; those of the stages that it needs come before."""
        with _naming(stage):
            return self._document(stage)

    def donor(self, stage: str | None) -> str | None:
        """The model that a stage's config and tokenizer come from."""
        return self._donors[stage]

    def _document(self, stage: Stage) -> dict[str, Any]:
        recipe = stage.recipe
        base = self._signatures(recipe.base)
        # A candidate that is given by its digest is refused, so its tensors do not matter.
        sources = [self._signatures(s.model) if s.model else base for s in recipe.sources]
        written = to_mergekit(recipe, base, _stored(recipe, base), sources if recipe.stack else ())
        self.notes |= dict.fromkeys(written.notes)
        self._donors[stage.name] = self._donors.get(written.donor, written.donor)
        if stage.name is None:
            return written.document
        jobs = make_plan(recipe, base, sources).jobs
        self._made[stage.name] = {job.name: (job.dtype, job.shape) for job in jobs}
        return {"name": stage.name, **written.document}

    def _signatures(self, model: str) -> Signatures:
        return self._made.get(model) or self.library.signatures(model)


def _stored(recipe: MergeRecipe, base: Signatures) -> str:
    """The one dtype that mergekit is to store."""
    if recipe.dtype != "base" or recipe.mergekit_compat is not None:
        return recipe.dtype
    stored = {str(d).removeprefix("torch.") for d, _ in base.values() if d.is_floating_point}
    if len(stored) != 1:
        raise RecipeError(
            f"the base stores tensors in {' and '.join(sorted(stored))}; mergekit writes one "
            "dtype, so choose one with dtype in the recipe"
        )
    return stored.pop()
