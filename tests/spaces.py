"""Search spaces over a model of six layers, and what their recipes say of its tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evomerge.genome.build import build_genome
from evomerge.layout import locate
from evomerge.recipe.merge import MergeRecipe, Source
from evomerge.recipe.space import GenomeSpace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.genome.genome import Genome
    from evomerge.recipe.calibration import CalibrationSettings

LAYERS = 6
EMBEDDING, FINAL_NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
QUERY, UP, NORM, ODD = (
    f"model.layers.{{}}.{part}.weight"
    for part in ("self_attn.q_proj", "mlp.up_proj", "input_layernorm", "oddity")
)
TENSORS = [
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    *(part.format(layer) for part in (QUERY, UP, NORM, ODD) for layer in range(LAYERS)),
]


def genome_of(
    *,
    sources: int = 2,
    tensors: Sequence[str] = TENSORS,
    seed: int = 0,
    calibration: CalibrationSettings | None = None,
    **space: Any,
) -> Genome:
    """The genome of a space, of sources called m0, m1 and so on."""
    return build_genome(
        base="base",
        sources=[Source(model=f"m{number}") for number in range(sources)],
        space=GenomeSpace(**space),
        tensors=tensors,
        dtype="base",
        seed=seed,
        calibration=calibration,
    )


def values_of(recipe: MergeRecipe, name: str, parameter: str = "weight") -> tuple[Any, ...]:
    """The values that a tensor is merged with, source by source."""
    place = locate(name)
    return tuple(recipe.setting(parameter, name, place, source) for source in recipe.sources)
