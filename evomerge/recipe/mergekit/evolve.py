"""Reads the YAML of mergekit-evolve as a search recipe.

The search itself is ours: starting candidates, strategy and held-out comparison. What is taken
over is what may be merged, how, and what counts as good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evomerge.layout import Component
from evomerge.recipe.mergekit.entries import Entries
from evomerge.recipe.yaml import Document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

GENOME = {
    *("models", "merge_method", "base_model", "tokenizer_source", "layer_granularity"),
    *("normalize", "allow_negative_weights", "filters", "smooth"),
}
KNOWN = {
    *("genome", "tasks", "limit", "num_fewshot", "shuffle", "random_init"),
    *("apply_chat_template", "fewshot_as_multiturn"),
}
METHODS = ("linear", "task_arithmetic", "ties", "dare_ties", "slerp")
NORMALIZED = ("linear", "ties", "dare_ties")
"""Methods that mergekit-evolve normalizes unless it is told otherwise."""

COMPONENTS = {
    "self_attn": Component.ATTENTION,
    "attn": Component.ATTENTION,
    "attention": Component.ATTENTION,
    "mlp": Component.MLP,
    "norm": Component.NORM,
    "embed": Component.EMBEDDING,
    "embed_tokens": Component.EMBEDDING,
    "lm_head": Component.HEAD,
}
"""What mergekit-evolve's texts in names of tensors usually stand for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvolveReading:
    """A search recipe, and what its user should know.

    Attributes:
        document: The search recipe's keys and values.
        notes: What is done otherwise than by mergekit-evolve.
    """

    document: Document
    notes: tuple[str, ...]


def is_evolve(document: Document) -> bool:
    """Whether a document is for mergekit-evolve."""
    genome = document.data.get("genome") if isinstance(document.data, dict) else None
    return isinstance(genome, dict) and "merge_method" in genome


def from_evolve(document: Document, layers: Callable[[str], int]) -> EvolveReading:
    """Turn a mergekit-evolve document into a search recipe.

    Args:
        document: The parsed YAML.
        layers: Counts the layers of a model.

    Raises:
        RecipeError: Something is unknown or cannot be searched here.
    """
    entries = Entries.of(document)
    data = entries.keys(entries.document.data, (), KNOWN)
    genome = entries.keys(data.get("genome"), ("genome",), GENOME)
    method = genome["merge_method"]
    if method not in METHODS:
        entries.refuse(
            ("genome", "merge_method"),
            f"merge_method {method!r} is not one of mergekit-evolve's: {', '.join(METHODS)}",
        )
    models = [
        entries.model(model, ("genome", "models", index))
        for index, model in enumerate(entries.items(genome.get("models"), ("genome", "models")))
    ]
    given = genome.get("base_model")
    base = models[0] if given is None else entries.model(given, ("genome", "base_model"))
    if given is None and method not in ("linear", "slerp"):
        entries.refuse(("genome",), "base_model: is missing")
    takes_base = method in ("linear", "slerp")
    found: dict[str, Any] = {
        "base": base,
        "sources": [{"model": m} for m in models if takes_base or m != base],
        "evaluation": {"tasks": list(_tasks(entries, data))},
        "genome": _space(entries, genome, method, lambda: layers(base)),
    }
    if data.get("limit") is not None:
        found["evaluation"]["items"] = {"search": data["limit"]}
    _refuse_the_rest(entries, data, genome)
    notes = list(_notes(entries, data, method))
    return EvolveReading(document=Document(found, {}, document.name), notes=tuple(notes))


def _space(
    entries: Entries, genome: Mapping[str, Any], method: str, layers: Callable[[], int]
) -> dict[str, Any]:
    space: dict[str, Any] = {"operator": method, "layer_groups": 1, "fixed": {}}
    size = genome.get("layer_granularity") or 0
    if size:
        count = layers()
        if type(size) is not int or size < 1 or count % size:
            entries.refuse(
                ("genome", "layer_granularity"),
                f"layer_granularity: expected a divisor of {count} layers, found {size!r}",
            )
        space["layer_groups"] = count // size
    if method != "slerp":
        normalize = genome.get("normalize")
        space["fixed"]["normalize"] = method in NORMALIZED if normalize is None else normalize
    if method == "dare_ties":
        space["fixed"]["rescale"] = "norm"
    if genome.get("allow_negative_weights"):
        space["ranges"] = {"weight": [-1.0, 1.0]}
    components: dict[str, None] = {}
    for index, text in enumerate(genome.get("filters") or ()):
        if text not in COMPONENTS:
            entries.refuse(
                ("genome", "filters", index),
                f"filters: {text!r} is no part that is searched by itself here; known: "
                f"{', '.join(COMPONENTS)}",
            )
        components[COMPONENTS[text].value] = None
    return space | ({"components": [*components]} if components else {})


def _tasks(entries: Entries, data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    shots = data.get("num_fewshot")
    for index, given in enumerate(entries.items(data.get("tasks"), ("tasks",))):
        path = ("tasks", index)
        task = {"name": given} if isinstance(given, str) else given
        known = dict(entries.keys(task, path, {"name", "weight", "metric"}))
        weight = known.get("weight", 1.0)
        if isinstance(weight, (int, float)) and weight <= 0:
            entries.refuse(
                (*path, "weight"),
                f"weight: expected a positive number, found {weight!r}; metrics that should be "
                "low are turned round by themselves",
            )
        # mergekit-evolve's default; ours would be the task's first metric.
        found = {"metric": "acc,none"} | known
        if shots is not None:
            found["num_fewshot"] = shots
        if data.get("apply_chat_template"):
            found["chat_template"] = True
            found["fewshot_as_multiturn"] = data.get("fewshot_as_multiturn", True)
        yield found


def _refuse_the_rest(entries: Entries, data: Mapping[str, Any], genome: Mapping[str, Any]) -> None:
    if genome.get("smooth"):
        entries.refuse(
            ("genome", "smooth"),
            "smooth: layer groups have values of their own here; leave it out",
        )
    if genome.get("tokenizer_source") not in (None, "base"):
        entries.refuse(
            ("genome", "tokenizer_source"),
            "tokenizer_source: all candidates keep the tokenizer of the base; leave it out",
        )
    if data.get("random_init"):
        entries.refuse(
            ("random_init",), "random_init: a search starts from known merges; leave it out"
        )


def _notes(entries: Entries, data: Mapping[str, Any], method: str) -> Iterator[str]:
    name = entries.document.name
    if "apply_chat_template" not in data:
        yield (
            f"{name}: apply_chat_template: is absent, so models are given prompts as the tasks "
            "have them; mergekit-evolve would put them into the chat template"
        )
    if data.get("limit") is None:
        yield f"{name}: limit: is absent, so 100 items of each task are searched with, not all"
    if method == "slerp":
        yield f"{name}: slerp: goes from the first to the second model, in the order given"
