"""Brings the models of a recipe to one vocabulary, and says what goes beside the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evomerge.checkpoints.tokenizer import tokenizer_files, vocabulary
from evomerge.errors import ModelError, RecipeError
from evomerge.merging.vocabulary.chat_template import find_template
from evomerge.merging.vocabulary.plan import VocabularyPlan, plan_vocabulary
from evomerge.merging.vocabulary.remapped import Embeddings, Remapped
from evomerge.merging.vocabulary.rows import vocabulary_size
from evomerge.merging.vocabulary.token_ids import (
    renumber,
    with_token_ids_of,
    with_vocabulary_size,
)
from evomerge.merging.vocabulary.tokenizer_files import with_chat_template, write_tokenizer

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

    def config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return a config.json with the size of the vocabulary and the ids of its tokens.

        Args:
            config: That of the base, or one made from it.
        """
        donor = self.models[self.plan.tokenizer]
        if self.plan.tokenizer != self.base:
            config = with_token_ids_of(config, donor.config)
        ids = self.plan.vocabulary()
        old = vocabulary(donor.folder) or {}
        new_ids = {number: ids[token] for token, number in old.items() if token in ids}
        return with_vocabulary_size(renumber(config, new_ids), len(self.plan.tokens))


def result_files(
    recipe: MergeRecipe,
    open_model: Callable[[str], Checkpoint],
    alignment: Alignment | None = None,
) -> dict[str, bytes]:
    """Return the content of the tokenizer files of a merged model, by name.

    They are copies of those of the base, except for what the recipe asks to be otherwise.

    Args:
        recipe: The recipe.
        open_model: Opens a model by the recipe's name for it.
        alignment: That of the recipe, if it has a `tokenizer`.

    Raises:
        ModelError: A tokenizer has to be changed and is not stored as tokenizer.json.
        MergeError: The tokenizer cannot have this vocabulary.
    """
    # A source that is a candidate has the template of a model, which is its base.
    models = (source.model for source in recipe.sources if source.model is not None)
    folders = {name: open_model(name).folder for name in dict.fromkeys([recipe.base, *models])}
    if alignment is None:
        files = {file.name: file.read_bytes() for file in tokenizer_files(folders[recipe.base])}
    else:
        plan = alignment.plan
        others = [folders[name] for name in plan.ids if name != plan.tokenizer]
        files = write_tokenizer(folders[plan.tokenizer], others, plan.vocabulary())
    if recipe.chat_template is not None:
        template = find_template(recipe.chat_template, folders.values())
        files = with_chat_template(files, template) if template is not None else files
    return files


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
