"""Merges that mergekit and we do: recipes of ours, documents of mergekit's, and its very bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Case:
    """A merge that mergekit and we do.

    Attributes:
        family: Folder of the models.
        recipe: Ours, which mergekit gets as exported YAML.
        theirs: mergekit's YAML, which we read; instead of `recipe`.
        compat: Whether we are to make its bytes, random numbers included.
        seed: Of random numbers.
        ulps: Largest difference, in units in the last place of what is stored; in float32, where
            the sources may cancel out, in the last place of a tensor's largest entry.
    """

    family: str
    recipe: dict[str, Any] | None = None
    theirs: str | None = None
    compat: bool = False
    seed: int = 0
    ulps: int = 0


def by_layer(values: list[float]) -> list[dict[str, Any]]:
    """One rule for each layer, with the MLP a tenth higher, and a last word."""
    rules = []
    for layer, value in enumerate(values):
        layers = [layer, layer + 1]
        rules.append({"value": value + 0.1, "layers": layers, "component": "mlp"})
        rules.append({"value": value, "layers": layers})
    return [*rules, {"value": 0.35, "component": "embedding"}, {"value": 0.65}]


SHALLOW = by_layer([0.2, 0.9, 0.4])
DEEP = by_layer([(i * 7 % 12) / 14 for i in range(12)])
COMPONENTS = [
    {"value": 0.15, "component": "attention"},
    {"value": 0.7, "component": "norm"},
    {"value": 0.3, "component": "head"},
    {"value": 0.55},
]


def recipe(operator: str, *sources: Any, dtype: str = "base", **parameters: Any) -> dict[str, Any]:
    return {
        "base": "base",
        "sources": list(sources or ("one", "two", "three")),
        "operator": operator,
        "parameters": parameters,
        "dtype": dtype,
    }


def of_source(model: str, **parameters: Any) -> dict[str, Any]:
    return {"model": model, "parameters": parameters}


THEIR_GRADIENTS = """
merge_method: ties
base_model: base
models:
  - model: base
  - model: one
    parameters:
      density: [1, 0.7, 0.1]
      weight: 1.0
  - model: two
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1]
  - model: three
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - filter: self_attn.q
          value: [0.1, 0.9]
        - value: 0
parameters:
  normalize: true
  int8_mask: true
dtype: float32
out_dtype: bfloat16
"""
THEIR_SLERP = """
merge_method: slerp
base_model: base
slices:
  - sources:
      - model: base
        layer_range: [0, 1]
      - model: one
        layer_range: [0, 1]
    parameters:
      t: [0.2, 0.8]
  - sources:
      - model: base
        layer_range: [1, 12]
      - model: one
        layer_range: [1, 12]
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
dtype: float32
"""
THEIR_LINEAR = """
merge_method: linear
base_model: base
models:
  - model: one
    parameters:
      weight: 1e-5
  - model: two+lora
parameters:
  weight: [0.25, 1, 0.5]
dtype: float32
out_dtype: float16
"""

FRANKEN_MERGE = """
merge_method: passthrough
slices:
  - sources:
      - model: one
        layer_range: [0, 8]
        parameters:
          scale:
            - filter: o_proj
              value: 0.5
            - filter: layers.3.
              value: 2
            - value: 1
  - sources:
      - model: two
        layer_range: [4, 12]
dtype: float32
"""
STACKED_AVERAGES = """
merge_method: linear
slices:
  - sources:
      - model: one
        layer_range: [2, 3]
        parameters: {weight: [{filter: layers.2., value: 0.9}, {value: 0.1}]}
      - model: two
        layer_range: [0, 1]
  - sources:
      - {model: two, layer_range: [0, 2]}
      - {model: three, layer_range: [1, 3]}
    parameters: {weight: [0.2, 0.8]}
parameters: {weight: 0.5}
dtype: float32
out_dtype: bfloat16
"""
STAGES = """
merge_method: slerp
base_model: first-stage
models:
  - model: first-stage
  - model: second-stage
parameters: {t: [0.2, 0.7]}
dtype: float32
out_dtype: float16
---
name: first-stage
merge_method: task_arithmetic
base_model: base
models:
  - {model: one, parameters: {weight: 0.4}}
  - {model: two, parameters: {weight: [0.1, 0.5]}}
dtype: float32
---
name: second-stage
merge_method: ties
base_model: first-stage
models:
  - {model: two, parameters: {weight: 1}}
  - {model: three, parameters: {weight: 0.5}}
dtype: float32
"""
MODULE = """
merge_method: linear
modules:
  default:
    models: [{model: one}, {model: two}]
    parameters: {weight: 0.2}
parameters: {weight: 0.9, normalize: false}
dtype: float32
"""

OURS = {
    "linear": Case(family="shallow", recipe=recipe("linear", weight=0.5)),
    "linear by layer": Case(
        family="deep",
        recipe=recipe("linear", of_source("one", weight=DEEP), "two", weight=0.25),
    ),
    "linear, the base included": Case(
        family="shallow", recipe=recipe("linear", "base", "one", weight=COMPONENTS)
    ),
    "linear, not normalized": Case(
        family="deep", recipe=recipe("linear", weight=0.3, normalize=False, dtype="float16")
    ),
    "task arithmetic": Case(
        family="deep", recipe=recipe("task_arithmetic", weight=0.4, scale=0.9)
    ),
    "task arithmetic by layer": Case(
        family="shallow",
        recipe=recipe(
            "task_arithmetic", of_source("one", weight=SHALLOW), "two", weight=-0.2, scale=1.2
        ),
    ),
    "task arithmetic with an adapter": Case(
        family="shallow", recipe=recipe("task_arithmetic", "base+lora", "one", weight=SHALLOW)
    ),
    "task arithmetic with an adapter, untied": Case(
        family="deep",
        recipe=recipe("task_arithmetic", "base+lora", "two", weight=0.6, dtype="bfloat16"),
    ),
    "ties": Case(family="deep", recipe=recipe("ties", weight=1, density=0.2)),
    "ties by layer": Case(
        family="deep",
        recipe=recipe(
            "ties",
            of_source("one", weight=DEEP, density=COMPONENTS),
            of_source("two", weight=0.5),
            of_source("three", weight=0.8, density=0.9),
            density=DEEP,
            normalize=[{"value": False, "layers": [10, 11]}, {"value": True}],
        ),
    ),
    "ties by component": Case(
        family="deep",
        recipe=recipe("ties", weight=COMPONENTS, density=0.5, scale=1.5, normalize=False),
    ),
    "slerp": Case(family="shallow", recipe=recipe("slerp", "base", "one", t=0.3), ulps=1),
    "slerp by layer": Case(family="deep", recipe=recipe("slerp", "one", "two", t=DEEP), ulps=2),
    "slerp by component": Case(
        family="deep", recipe=recipe("slerp", "two", "one", t=COMPONENTS, dtype="bfloat16"), ulps=1
    ),
    "passthrough of a stack": Case(
        family="deep",
        recipe=recipe("passthrough", "one", "two")
        | {"stack": [{"layers": {"one": [0, 8]}}, {"layers": {"two": [4, 12]}}]},
    ),
    "ties of a stack": Case(
        family="deep",
        recipe=recipe("ties", "one", "two", weight=DEEP, density=0.7)
        | {
            "stack": [
                {"layers": {"one": [2, 6], "two": [2, 6], "base": [0, 4]}},
                {"layers": {"one": [5, 12], "two": [3, 10], "base": [4, 11]}},
            ]
        },
    ),
    "nuslerp": Case(
        family="deep",
        recipe=recipe("nuslerp", of_source("one", weight=DEEP), "two", weight=0.5),
        ulps=4,
    ),
    "nuslerp of columns from zero": Case(
        family="deep",
        recipe=recipe("nuslerp_lines", "one", "two", weight=0.3, along="columns", around="origin"),
        ulps=4,
    ),
    "multislerp": Case(family="deep", recipe=recipe("multislerp", weight=0.3), ulps=4),
    "karcher": Case(family="deep", recipe=recipe("karcher"), ulps=8),
    "model stock": Case(family="deep", recipe=recipe("model_stock"), ulps=4),
    "model stock of rows": Case(family="deep", recipe=recipe("model_stock_rows"), ulps=4),
    "nearswap": Case(family="deep", recipe=recipe("nearswap", "one", "two", t=0.02)),
    "breadcrumbs": Case(
        family="deep", recipe=recipe("breadcrumbs", weight=0.4, density=0.9, gamma=0.05)
    ),
    "sce": Case(family="deep", recipe=recipe("sce", density=0.5), ulps=2),
    "ram": Case(family="deep", recipe=recipe("ram", epsilon=0.02)),
    "ramplus_tl": Case(family="deep", recipe=recipe("ramplus_tl", epsilon=0.02), ulps=2),
    "passthrough": Case(family="shallow", recipe=recipe("passthrough", "one", scale=COMPONENTS)),
}

NUMBERED_LAYERS = """
merge_method: passthrough
slices:
  - sources: [{model: two, layer_range: [0, 3], parameters: {scale: 2}}]
  - sources:
      - model: two
        layer_range: [0, 3]
        parameters: {scale: [{filter: layers.1, value: -0.5}, {value: 3}]}
"""

THEIRS = {
    "their gradients": Case(family="deep", theirs=THEIR_GRADIENTS),
    "their slerp": Case(family="deep", theirs=THEIR_SLERP, ulps=2),
    "their linear": Case(family="shallow", theirs=THEIR_LINEAR),
    "a franken-merge": Case(family="deep", theirs=FRANKEN_MERGE),
    "stacked averages": Case(family="shallow", theirs=STACKED_AVERAGES),
    "several stages": Case(family="shallow", theirs=STAGES, ulps=1),
    "a module": Case(family="shallow", theirs=MODULE),
    "filters that name a layer of a model": Case(family="deep", theirs=NUMBERED_LAYERS),
}

CASES = {**OURS, **THEIRS}
