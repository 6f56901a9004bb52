"""Brings the models of a recipe to one vocabulary: opens, plans, and says what is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evomerge.checkpoints.tokenizer import vocabulary
from evomerge.errors import ModelError, RecipeError
from evomerge.merging.vocabulary.plan import VocabularyPlan, plan_vocabulary
from evomerge.merging.vocabulary.remapped import Embeddings, Remapped
from evomerge.merging.vocabulary.rows import vocabulary_size
from evomerge.merging.vocabulary.token_ids import (
    renumber,
    with_token_ids_of,
    with_vocabulary_size,
)
from evomerge.merging.vocabulary.tokenizer_files import write_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from evomerge.checkpoints import Checkpoint
    from evomerge.recipe.merge import MergeRecipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Alignment:
    """The models of a recipe in one vocabulary.

    Attributes:
        plan: The vocabulary.
        models: The models in that vocabulary, by the names that the recipe has for them.
        base: The recipe's name for its base.
    """

    plan: VocabularyPlan
    models: Mapping[str, Remapped]
    base: str

    def config(self) -> dict[str, Any]:
        """Return config.json of the merged model: the base's, with size and ids of the tokens."""
        config = dict(self.models[self.base].config)
        donor = self.models[self.plan.tokenizer]
        if self.plan.tokenizer != self.base:
            config = with_token_ids_of(config, donor.config)
        ids = self.plan.vocabulary
        old = vocabulary(donor.folder) or {}
        new_ids = {number: ids[token] for token, number in old.items() if token in ids}
        return with_vocabulary_size(renumber(config, new_ids), len(self.plan.tokens))

    def files(self) -> dict[str, bytes]:
        """Return the content of the merged model's tokenizer files, by name.

        Raises:
            ModelError: A tokenizer has to be changed and is not stored as tokenizer.json.
            MergeError: The tokenizer cannot have this vocabulary.
        """
        folders = [model.folder for model in self.models.values()]
        first = self.models[self.plan.tokenizer].folder
        return write_tokenizer(first, folders, self.plan.vocabulary)


def align(recipe: MergeRecipe, open_model: Callable[[str], Checkpoint]) -> Alignment:
    """Bring the models of a recipe to the vocabulary that it asks for.

    Args:
        recipe: A recipe with `tokenizer`.
        open_model: Opens a model by the recipe's name for it.

    Raises:
        RecipeError: The recipe has no `tokenizer`.
        ModelError: A model's tokens or embeddings cannot be told from its files.
        MergeError: The recipe names an embedding that there is not.
    """
    if recipe.tokenizer is None:
        raise RecipeError("tokenizer: is missing; it says which vocabulary the models get")
    # As in mergekit, which lists the base last unless it is a source; see `plan_vocabulary`.
    names = dict.fromkeys([recipe.base, *(source.model or "" for source in recipe.sources)])
    stored = {name: open_model(name) for name in names}
    vocabularies = {name: _vocabulary(model) for name, model in stored.items()}
    plan = plan_vocabulary(vocabularies, recipe.base, recipe.tokenizer)
    embeddings = Embeddings(plan, stored)
    return Alignment(
        plan=plan,
        models={name: Remapped(model, name, embeddings) for name, model in stored.items()},
        base=recipe.base,
    )


def _vocabulary(model: Checkpoint) -> dict[str, int]:
    """The tokens of a model that have an embedding."""
    tokens = vocabulary(model.folder)
    if tokens is None:
        raise ModelError(
            f"{model.reference}: has no tokenizer.json or vocab.json; its tokens are not known, "
            "so its embeddings cannot be matched with those of others"
        )
    size = vocabulary_size(model)
    return {token: number for token, number in tokens.items() if number < size}
