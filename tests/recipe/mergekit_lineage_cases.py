"""Lineages that mergekit merges document by document, and we all at once."""

from __future__ import annotations

from typing import Any

from recipe.mergekit_cases import COMPONENTS, SHALLOW, Case, recipe


def inside(merge: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"recipe": merge, **more}


PARENT = recipe("linear", "one", "two", weight=SHALLOW)
ARITHMETIC = recipe("task_arithmetic", inside(PARENT), "three", weight=0.7)
ARC = recipe("slerp", inside(ARITHMETIC), inside(PARENT), t=COMPONENTS)
IN_FLOAT16 = recipe("linear", "one", "two", "three", dtype="float16", weight=0.4)
STACKED = [{"layers": {"x": [0, 2]}}, {"layers": {"y": [1, 3]}}]

LINEAGES = {
    "a lineage of averages": Case(
        family="shallow", recipe=recipe("linear", inside(PARENT), "three", weight=0.5)
    ),
    "a lineage of task vectors": Case(family="shallow", recipe=ARITHMETIC),
    "a lineage of arcs": Case(family="shallow", recipe=ARC, ulps=1),
    "a lineage with shared parents": Case(
        family="shallow",
        recipe=recipe("ties", inside(PARENT), inside(ARITHMETIC), "one", weight=0.8),
    ),
    "a lineage measured from a parent": Case(
        family="shallow",
        recipe=recipe("task_arithmetic", inside(ARITHMETIC), "one", weight=0.4)
        | {"base_recipe": PARENT},
    ),
    "a lineage stored in another dtype": Case(
        family="shallow", recipe=recipe("ties", inside(IN_FLOAT16), "one", weight=0.9)
    ),
    "a lineage of stacks": Case(
        family="shallow",
        recipe=recipe("passthrough", inside(PARENT, name="x"), inside(ARITHMETIC, name="y"))
        | {"stack": STACKED},
    ),
    "a lineage in float32": Case(
        family="deep",
        recipe=recipe(
            "ties",
            inside(recipe("linear", "one", "two", weight=0.3)),
            inside(recipe("task_arithmetic", "two", "three", weight=0.6)),
            weight=0.8,
        ),
    ),
}
"""Each dtype between two stages is that of the base, or the inner recipe's own."""
