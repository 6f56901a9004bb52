"""What of a recipe mergekit cannot express, and what it does differently."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from evomerge.operators.registry import find_operator
from evomerge.recipe.mergekit.names import OTHER_MASKS
from evomerge.recipe.origins import slab_members

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evomerge.recipe.merge import MergeRecipe
    from evomerge.recipe.mergekit.names import Method
    from evomerge.recipe.mergekit.values import Values

ELECTS_A_SIGN = ("ties", "dare_ties", "breadcrumbs_ties", "della")
"""There the base takes no part, for its task vector is zero."""

ROLES = {"around", "along"}
"""Parameters of ours that are written as the base or as a choice."""


def candidates(recipe: MergeRecipe) -> Iterator[str]:
    """Say which parts of a recipe are merges themselves, which mergekit cannot express."""
    for source in recipe.sources:
        if source.model is None:
            yield f"mergekit cannot merge a candidate ({source.label}); export it first"
    if recipe.base_recipe is not None:
        yield "mergekit cannot measure from a candidate (base_recipe); export it first"


def obstacles(recipe: MergeRecipe, method: Method, values: Values) -> Iterator[str]:
    """Say why mergekit cannot express a recipe of models."""
    for repeated in _repeated(recipe):
        yield f"mergekit gives every entry of {repeated} the parameters of the first"
    yield from _uncommon(recipe, method, values)
    yield from _of_the_base(recipe, method, values)
    if recipe.tokenizer is not None and recipe.tokenizer.source == "intersection":
        yield "mergekit cannot merge the intersection of vocabularies; choose base or union"
    if any(not slab.height for slab in recipe.stack or ()):
        yield "mergekit has no slices without layers; leave the empty slabs out"
    counts = [len(slab_members(recipe, slab)) for slab in recipe.stack or ()]
    if counts and counts[0] < counts[-1]:
        yield (
            "mergekit drops models from the tensors after the layers when the last slab has more "
            "sources than the first"
        )


def notes_on_donor(recipe: MergeRecipe, donor: str | None) -> Iterator[str]:
    """Say which config and tokenizer mergekit's result has, if not those of the base."""
    if donor is None:
        yield "mergekit takes config and tokenizer from any of the models"
    elif donor != recipe.base:
        yield f"mergekit takes config and tokenizer from {donor}"


def notes(recipe: MergeRecipe, method: Method, values: Values) -> Iterator[str]:
    """Say how mergekit's tensors differ."""
    if recipe.mergekit_compat is not None:
        if OTHER_MASKS in method.notes:
            yield f"mergekit draws the same random masks with --random-seed {recipe.seed}"
        return
    yield from _notes_on_thinning(recipe, values)


def _notes_on_thinning(recipe: MergeRecipe, values: Values) -> Iterator[str]:
    operator = find_operator(recipe.operator)
    density = operator.parameters.get("density")
    if density is None:
        return
    sources = range(len(recipe.sources)) if density.per_source else [None]
    thinned = [
        name
        for source in sources
        for name, kept in values.ours("density", source).items()
        if float(kept) < 1
    ]
    if thinned and not operator.stochastic:
        yield (
            "mergekit keeps only some of the entries that are as large as the last one kept, "
            "this recipe keeps all"
        )
    if not thinned or not operator.stochastic:
        return
    yield OTHER_MASKS
    rescale = values.ours("rescale", None)
    for word in ("density", "probability"):
        if any(rescale[name] == word for name in thinned):
            yield f"mergekit restores the L1 norm where this recipe divides by the {word}"


def _repeated(recipe: MergeRecipe) -> Iterator[str]:
    everyone = list(range(len(recipe.sources)))
    slabs = [[i for i, _ in slab_members(recipe, slab)] for slab in recipe.stack or ()]
    for members in slabs or [everyone]:
        counted = Counter(recipe.sources[index].model for index in members)
        for model, times in counted.items():
            if times > 1:
                yield str(model)


def _uncommon(recipe: MergeRecipe, method: Method, values: Values) -> Iterator[str]:
    """Parameters that only our operator has."""
    operator = find_operator(recipe.operator)
    common = {parameter.ours for parameter in method.parameters} | ROLES
    for parameter in operator.parameters.values():
        sources = range(len(recipe.sources)) if parameter.per_source else [None]
        if parameter.name in common or parameter.default is None:
            continue
        for source in sources:
            if set(values.ours(parameter.name, source).values()) != {parameter.default}:
                yield (
                    f"mergekit has no {parameter.name} in {method.name}; it does what "
                    f"{parameter.default!r} does here"
                )
    for name in ROLES & operator.parameters.keys():
        if len(set(values.ours(name, None).values())) > 1:
            yield f"mergekit has one {name} for all tensors"


def _of_the_base(recipe: MergeRecipe, method: Method, values: Values) -> Iterator[str]:
    """What differs when the base is among the sources."""
    around_base = method.base == "origin" or (
        method.base == "maybe" and recipe.parameters.get("around", "base") == "base"
    )
    if not around_base or all(source.model != recipe.base for source in recipe.sources):
        return
    operator = find_operator(recipe.operator)
    if "weight" not in operator.parameters or method.base == "maybe":
        yield "mergekit does not count the base among the sources"
    elif method.name not in ELECTS_A_SIGN and any(values.ours("normalize", None).values()):
        yield "mergekit does not count the base's weight when it normalizes"
