"""How mergekit 0.1.5 finds a parameter's value for a tensor, written down from its source.

Independent of `evomerge.recipe`: it knows nothing but mergekit documents and tensor names.
"""

from __future__ import annotations

import re
from typing import Any

DEFAULTS = {
    "linear": {"normalize": True},
    "slerp": {},
    "task_arithmetic": {"normalize": False, "lambda": 1.0},
    "ties": {"normalize": True, "lambda": 1.0, "density": 1.0},
    "dare_linear": {"normalize": False, "rescale": True, "lambda": 1.0, "density": 1.0},
    "dare_ties": {"normalize": False, "rescale": True, "lambda": 1.0, "density": 1.0},
}
REQUIRED = {"slerp": {"t"}}
SHARED = {"normalize", "rescale", "lambda", "t"}
KEYS = {
    "document": {"merge_method", "base_model", "models", "slices", "parameters"}
    | {"dtype", "out_dtype"},
    "slice": {"sources", "parameters"},
    "source": {"model", "layer_range", "parameters"},
}


class MissingValueError(Exception):
    """mergekit has no value for a required parameter and stops."""


def parameters_of(method: str) -> set[str]:
    return DEFAULTS[method].keys() | REQUIRED.get(method, {"weight"})


def value_in_mergekit(
    document: dict[str, Any],
    parameter: str,
    model: str | None,
    name: str,
    *,
    layers: int,
    inferred: bool = False,
) -> Any:
    """The value that mergekit uses.

    Args:
        document: The recipe.
        parameter: mergekit's word for it.
        model: The input it is for; None for a parameter of all inputs.
        name: The tensor.
        layers: Number of layers of the models.
        inferred: mergekit does not know the family, so all tensors outside the layers come first.
    """
    slices = _slices(document, layers)
    part, t = _locate(slices, name, inferred=inferred)
    scopes = [] if model is None else [s for s in part["sources"] if s["model"] == model]
    for scope in (*scopes, part, document):
        setting = (scope.get("parameters") or {}).get(parameter)
        value = None if setting is None else _evaluate(setting, name, t)
        if value is not None:
            return value
    if parameter not in DEFAULTS[document["merge_method"]]:
        raise MissingValueError(parameter, model, name)
    return DEFAULTS[document["merge_method"]][parameter]


def _slices(document: dict[str, Any], layers: int) -> list[dict[str, Any]]:
    if "slices" in document:
        return document["slices"]
    sources = [entry | {"layer_range": [0, layers]} for entry in document["models"]]
    base = document.get("base_model")
    if base is not None and all(source["model"] != base for source in sources):
        sources.append({"model": base, "layer_range": [0, layers]})
    return [{"sources": sources}]


def _locate(
    slices: list[dict[str, Any]], name: str, *, inferred: bool
) -> tuple[dict[str, Any], float]:
    found = re.search(r"\.(\d+)\.", name)
    if found is None:
        before = inferred or "embed" in name
        return slices[0 if before else -1], 0
    layer = int(found[1])
    for part in slices:
        start, stop = part["sources"][0]["layer_range"]
        if start <= layer < stop:
            count = stop - start
            return part, (layer - start) / (count - 1) if count > 1 else 1
    raise AssertionError(f"no slice has layer {layer}")


def _evaluate(setting: Any, name: str, t: float) -> Any:
    if isinstance(setting, dict):
        setting = [setting]
    if not isinstance(setting, list):
        return setting
    if setting and isinstance(setting[0], dict):
        for entry in setting:
            text = entry.get("filter")
            if text is None or text == "*" or text in name:
                return _evaluate(entry["value"], name, t)
        return None
    if not setting:
        return None
    if isinstance(setting[0], (bool, str)):
        return setting[int(t * (len(setting) - 1))]
    scaled = t * (len(setting) - 1)
    left = int(scaled)
    right = min(len(setting) - 1, left + 1)
    share = scaled - left
    return (1 - share) * setting[left] + share * setting[right]
