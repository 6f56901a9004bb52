"""Settings of published systems of fusion by distillation."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Literal

PresetName = Literal["default", "infifusion", "fusellm", "fusechat", "feddf"]

# Wan et al. 2024, https://arxiv.org/abs/2401.10491: the teacher, or the student, with the lowest
# cross entropy on a text; tokens mapped by edit distance; 9 parts cross entropy.
FUSELLM: dict[str, Any] = {
    "fuse": "min_ce",
    "with_student": True,
    "loss": {
        "kind": "top_k_kl",
        "distillation": 0.1,
        "cross_entropy": 0.9,
        "tail": "renormalised",
    },
    "cache": {"k": 10},
}

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # Yan et al. 2025, https://arxiv.org/abs/2501.02795: top-10 standardised ULD of all teachers at
    # once. The weights of the two terms are not published; these are ULD's (Boizard et al. 2024,
    # https://arxiv.org/abs/2402.12030: cross entropy plus 1.5 of it). Nor is it known how rows of
    # other tokenizers are aligned; by position, as by ULD, nothing was gained where spans gained.
    "infifusion": {
        "fuse": "sum",
        "loss": {
            "kind": "standardised_uld",
            "distillation": 1.5,
            "cross_entropy": 1.0,
            "top": 10,
        },
    },
    "fusellm": FUSELLM | {"alignment": {"kind": "edit_distance"}},
    # Wan et al. 2024, https://arxiv.org/abs/2408.07990: as FuseLLM, a student for each teacher,
    # merged by SCE; tokens mapped by how often they meet.
    "fusechat": FUSELLM
    | {"mode": "pairwise", "operator": "sce", "alignment": {"kind": "statistics"}},
    # Lin et al. 2020, https://arxiv.org/abs/2006.07242: the mean of the teachers' logits on texts
    # without labels, by the forward divergence alone.
    "feddf": {
        "fuse": "avg_logits",
        "loss": {"kind": "top_k_kl", "distillation": 1.0, "cross_entropy": 0.0},
    },
}
"""What each preset sets, where a recipe does not say otherwise."""


def with_preset(data: Any) -> Any:
    """Settings with those of their preset where they give none, and without its name."""
    name = data.get("preset") if isinstance(data, dict) else None
    if not isinstance(name, str) or name not in PRESETS:
        return data
    given = {key: value for key, value in data.items() if key != "preset"}
    return _filled(given, _for_loss(given.get("loss"), PRESETS[name]))


def _for_loss(given: Any, preset: dict[str, Any]) -> dict[str, Any]:
    """A preset without what belongs to its loss alone, where another is given."""
    loss = preset.get("loss", {})
    kind = given.get("kind") if isinstance(given, dict) else None
    if kind in {None, loss.get("kind")}:
        return preset
    own = {"loss": {key: value for key, value in loss.items() if key not in {"kind", "tail"}}}
    return {key: value for key, value in preset.items() if key != "alignment"} | own


def _filled(given: dict[str, Any], preset: dict[str, Any]) -> dict[str, Any]:
    found = deepcopy(preset) | given
    for key, own in preset.items():
        if isinstance(own, dict) and isinstance(given.get(key), dict):
            found[key] = _filled(given[key], own)
    return found
