"""Carries a point of one run's genes over to another's: the same models, perhaps other layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from evomerge.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.recipe.search import SearchRecipe
    from evomerge.run.preparation.prepare import PreparedSearch
    from evomerge.search.contract import Point

Label: TypeAlias = Mapping[str, Any]
"""What a gene drives, in words; see `Genome.labels`."""


def models_by_content(
    earlier: SearchRecipe, identities: Mapping[str, str], search: PreparedSearch, run: str
) -> dict[str, str]:
    """Find the models of an earlier run in a search, wherever they lie now.

    Args:
        earlier: Recipe of the earlier run.
        identities: Fingerprints of its models, by their references.
        search: The new search.
        run: Folder of the earlier run.

    Returns:
        Reference in the search by reference in the run.

    Raises:
        RecipeError: They merge other models.
    """
    here = search.recipe
    if identities[earlier.base] != search.identities[here.base]:
        raise _other_models(run, f"has the base {earlier.base}")
    found = {earlier.base: here.base}
    missing = [str(source.model) for source in earlier.sources]
    for source in here.sources:
        identity = search.identities[str(source.model)]
        same = [model for model in missing if identities[model] == identity]
        if not same:
            raise _other_models(run, f"lacks the source {source.label}")
        missing.remove(same[0])
        found[same[0]] = str(source.model)
    if missing:
        raise _other_models(run, f"also merges {missing[0]}")
    return found


def transferred(
    point: Point,
    labels: Sequence[Label],
    earlier: SearchRecipe,
    models: Mapping[str, str],
    *,
    search: PreparedSearch,
    run: str,
) -> Point:
    """The same merge as a point of a search, the mean of layers where these share a gene now.

    Args:
        point: A point of the earlier run.
        labels: What its genes drive.
        earlier: Its recipe.
        models: Reference in the search by reference in the run.
        search: The new search.
        run: Folder of the earlier run.

    Raises:
        RecipeError: The genes drive something else.
    """
    _refuse_other_space(earlier, search, run)
    names = {str(source.model): source.label for source in search.recipe.sources}
    renamed = {each.label: names[models[str(each.model)]] for each in earlier.sources}
    known: dict[tuple[Any, ...], float] = {}
    for label, coordinate in zip(labels, point, strict=True):
        source = renamed.get(label["source"], label["source"])
        for layer in _layers(label):
            known[label["parameter"], source, label["component"], layer] = coordinate
    found = []
    for label in search.genome.labels():
        keys = [
            (label["parameter"], label["source"], label["component"], layer)
            for layer in _layers(label)
        ]
        missing = [key for key in keys if key not in known]
        if missing:
            parameter, source, component, layer = missing[0]
            raise RecipeError(
                f"{run} has no gene for {parameter} of {source} in layer {layer}, "
                f"{component}; start from a run over the same genes"
            )
        found.append(sum(known[key] for key in keys) / len(keys))
    return tuple(found)


def _refuse_other_space(earlier: SearchRecipe, search: PreparedSearch, run: str) -> None:
    before = earlier.genome.model_dump(mode="json")
    for name, value in search.recipe.genome.model_dump(mode="json").items():
        # How layers share genes is what may differ.
        if name != "layer_groups" and before[name] != value:
            raise RecipeError(
                f"{run} has genome.{name} {_shown(before[name])}, and this search "
                f"{_shown(value)}; make them equal, or start without it"
            )


def _shown(value: Any) -> str:
    return str(value) if value or value == 0 else "none"


def _layers(label: Label) -> list[str]:
    """The layers that a gene drives, one by one; `none` if it drives others only."""
    first, _, last = label["layers"].partition("-")
    return [str(layer) for layer in range(int(first), int(last) + 1)] if last else [first]


def _other_models(run: str, difference: str) -> RecipeError:
    return RecipeError(
        f"{run} {difference}; start from a run of the same base and sources (files that "
        "were copied count as others)"
    )
