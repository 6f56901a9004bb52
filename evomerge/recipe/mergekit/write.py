"""Writes a merge recipe as mergekit YAML that rebuilds the same tensors.

mergekit addresses tensors by layer range and by text in their names; the first entry that matches
counts. Tensors outside the layers take the parameters of the first or of the last slice, depending
on the architecture, so in recipes that do not stack layers both say the same about them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evomerge.errors import RecipeError
from evomerge.recipe.check import check_operator
from evomerge.recipe.mergekit.names import OPERATORS, method_of
from evomerge.recipe.mergekit.obstacles import candidates, notes, obstacles
from evomerge.recipe.mergekit.slices import Slices
from evomerge.recipe.mergekit.values import Values
from evomerge.recipe.origins import trace

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from evomerge.operators.registry import Operator
    from evomerge.recipe.merge import MergeRecipe


@dataclass(frozen=True, kw_only=True, slots=True)
class MergekitRecipe:
    """A recipe in mergekit's terms.

    Attributes:
        document: The YAML document.
        donor: The model that gives config and tokenizer; None if mergekit takes any.
        notes: Why mergekit's tensors differ, if they do; empty when they are the same.
    """

    document: dict[str, Any]
    donor: str | None
    notes: tuple[str, ...]


def check_method(recipe: MergeRecipe) -> Operator:
    """Find a recipe's operator and check that mergekit has it, and that it merges models.

    Raises:
        RecipeError: mergekit has not, or it does not.
    """
    operator = check_operator(recipe)
    nested = next(candidates(recipe), None)
    if nested:
        raise RecipeError(nested)
    if operator.name not in OPERATORS:
        raise RecipeError(f"mergekit has no operator {operator.name}")
    return operator


def to_mergekit(
    recipe: MergeRecipe,
    tensors: Collection[str],
    dtype: str,
    sources: Sequence[Collection[str]] = (),
) -> MergekitRecipe:
    """Express a recipe in mergekit's terms; one with recipes inside is to be split into stages.

    Args:
        recipe: The recipe.
        tensors: Names of the base model's tensors.
        dtype: What the merged model is stored in.
        sources: Names of each source's tensors, for recipes that stack layers; those of the base
            if absent.

    Raises:
        RecipeError: mergekit has no way to say this.
    """
    operator = check_method(recipe)
    method, choices = method_of(operator.name, recipe.parameters)
    values = Values(recipe, operator, trace(recipe, tensors, sources))
    problem = next(obstacles(recipe, method, values), None)
    if problem:
        raise RecipeError(problem)
    slices = Slices(recipe, method, values, choices)
    document: dict[str, Any] = {"merge_method": method.name}
    if slices.base is not None:
        document["base_model"] = slices.base
    document |= slices.document()
    document |= _dtypes(recipe, dtype) | _vocabulary(recipe)
    return MergekitRecipe(
        document=document, donor=slices.base, notes=tuple(notes(recipe, method, values))
    )


def _dtypes(recipe: MergeRecipe, dtype: str) -> dict[str, str]:
    if recipe.mergekit_compat is None:
        # Arithmetic in float32, as here, whatever is stored.
        return {"dtype": "float64" if dtype == "float64" else "float32", "out_dtype": dtype}
    found: dict[str, str] = {}
    if recipe.mergekit_compat.dtype is not None:
        found["dtype"] = recipe.mergekit_compat.dtype
    return found | ({} if recipe.dtype == "base" else {"out_dtype": recipe.dtype})


def _vocabulary(recipe: MergeRecipe) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if recipe.tokenizer is not None:
        found["tokenizer"] = recipe.tokenizer.model_dump(mode="json", exclude_defaults=True)
        found["tokenizer"].setdefault("source", recipe.tokenizer.source)
    if recipe.chat_template is not None:
        found["chat_template"] = recipe.chat_template
    return found
