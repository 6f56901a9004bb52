"""What can be told of a model family before a search: a document and its figures."""

from __future__ import annotations

from dataclasses import asdict
from itertools import combinations
from typing import TYPE_CHECKING, Any

from evomerge.checkpoints import AdaptedModel, Checkpoint, check_family, open_checkpoint
from evomerge.errors import RecipeError
from evomerge.recipe.merge import Source
from evomerge.reporting.expectations import expect
from evomerge.reporting.heat_map import DIVERGING, SEQUENTIAL, HeatMap, Scale
from evomerge.sensitivity.family import measure_family
from evomerge.sensitivity.groups import group_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from evomerge.sensitivity.moments import DeltaMoments

VERSION = 1
"""Version of the document that `inspect_models` gives. Fields may be added, never changed."""

Document = dict[str, Any]


def inspect_models(
    models: Sequence[str],
    base: str | None,
    root: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Document:
    """Check and measure models as sources of a merge, without running them.

    Args:
        models: References of the sources.
        base: Reference of their base; if left out, the one that adapters among them stand on.
        root: Folder that relative references start from.
        progress: Told the entries measured, and of how many.

    Returns:
        A JSON document. Matrices are lists of rows, in the order of `sources`; norms are lists in
        that order. A conflict is the share, of what two sources both change, that they move in
        opposite directions; `weighted_conflict` counts entries by the product of both moves.

    Raises:
        RecipeError: The base is missing.
        ModelError: A model cannot be used.
        CompatibilityError: The models have nothing in common.
    """
    sources = [open_checkpoint(model, root=root) for model in models]
    origin = _find_base(sources) if base is None else open_checkpoint(base, root=root)
    findings = check_family(origin, sources)
    names = _names(models)
    family = measure_family(origin, sources, progress=progress)
    whole, layers = family.whole(), family.layers()
    return {
        "version": VERSION,
        "base": origin.reference,
        "sources": [
            {
                "name": name,
                "model": source.reference,
                "norm": float(whole.norms[i]),
                "relative_norm": float(whole.relative_norms[i]),
                "changed": float(whole.changed[i] / whole.entries),
            }
            for i, (name, source) in enumerate(zip(names, sources, strict=True))
        ],
        "findings": [asdict(finding) for finding in findings],
        "expectations": expect(names, family),
        **_pairs(whole),
        "layers": [
            {"layer": label, **_norms(moments), **_pairs(moments)}
            for label, moments in zip(group_labels(layers), layers.values(), strict=True)
        ],
        "tensors": [
            {"tensor": name, **_norms(moments)} for name, moments in family.tensors.items()
        ],
        "left_out": list(family.left_out),
    }


def figures(document: Document) -> dict[str, str]:
    """The figures of an inspection, as SVG texts by file name."""
    names = [source["name"] for source in document["sources"]]
    layers = [layer["layer"] for layer in document["layers"]]
    maps = {"kinship.svg": _kinship(names, document), "norms.svg": _norm_map(names, document)}
    pairs = list(combinations(range(len(names)), 2))
    if pairs:
        maps["conflict.svg"] = HeatMap(
            title="Where sources pull in opposite directions",
            note="Share of what both change, weighted by size; 50% is chance, hatched is nothing.",
            rows=[f"{names[i]} / {names[j]}" for i, j in pairs],
            columns=layers,
            values=[[conflict_of(layer, i, j) for layer in document["layers"]] for i, j in pairs],
            scale=Scale(low=0, high=1, colours=DIVERGING, form="{:.0%}".format),
            across="layer",
        )
    return {name: chart.to_svg() for name, chart in maps.items()}


def signed(cosine: float) -> str:
    """A cosine as text; what rounds to zero has no sign."""
    return f"{round(cosine, 2) + 0.0:.2f}"


def conflict_of(part: Document, i: int, j: int) -> float | None:
    """Weighted conflict of two sources in a part of the model; None if they share no change."""
    share: float = part["weighted_conflict"][i][j]
    return share if part["shared"][i][j] else None


def _kinship(names: Sequence[str], document: Document) -> HeatMap:
    return HeatMap(
        title="Kinship of the sources",
        note="Cosine of their task vectors: 1 is the same direction, 0 unrelated, -1 opposite.",
        rows=names,
        columns=names,
        values=document["cosine"],
        scale=Scale(low=-1, high=1, colours=DIVERGING, form=signed),
    )


def _norm_map(names: Sequence[str], document: Document) -> HeatMap:
    rows = [[layer["relative_norm"][i] for layer in document["layers"]] for i in range(len(names))]
    return HeatMap(
        title="How far each source moved",
        note="Norm of the task vector relative to the base model's weights; hatched is unchanged.",
        rows=names,
        columns=[layer["layer"] for layer in document["layers"]],
        values=[[value or None for value in row] for row in rows],
        scale=Scale(low=0, high=max(map(max, rows)), colours=SEQUENTIAL, form="{:.2%}".format),
        across="layer",
    )


def _find_base(sources: Sequence[Checkpoint]) -> Checkpoint:
    bases = {
        source.base.folder.resolve(): source.base
        for source in sources
        if isinstance(source, AdaptedModel)
    }
    if len(bases) == 1:
        return next(iter(bases.values()))
    found = "the adapters stand on different models" if bases else "no MODEL is an adapter"
    raise RecipeError(f"--base is missing and {found}; name the model that all descend from")


def _names(models: Sequence[str]) -> list[str]:
    """Short names of models, numbered where they would be the same."""
    short = [Source(model=model).label for model in models]
    return [
        name if short.count(name) == 1 else f"{name}#{short[:number].count(name) + 1}"
        for number, name in enumerate(short)
    ]


def _norms(moments: DeltaMoments) -> Document:
    return {"norm": moments.norms.tolist(), "relative_norm": moments.relative_norms.tolist()}


def _pairs(moments: DeltaMoments) -> Document:
    return {
        "cosine": moments.cosine.tolist(),
        "pearson": moments.pearson.tolist(),
        "euclid": moments.euclid.tolist(),
        "shared": moments.shared.tolist(),
        "conflict": moments.conflict.tolist(),
        "weighted_conflict": moments.weighted_conflict.tolist(),
    }
