"""What tests of reading mergekit recipes share: tensors, short documents and their values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evomerge.layout import locate
from evomerge.operators.registry import find_operator
from evomerge.recipe import yaml
from evomerge.recipe.mergekit.read import from_mergekit

if TYPE_CHECKING:
    from evomerge.recipe.merge import MergeRecipe

LAYERS = 4
MODULES = ["input_layernorm", "mlp.up_proj", "self_attn.q_proj"]
TENSORS = [
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.{module}.weight" for i in range(LAYERS) for module in MODULES),
    "model.norm.weight",
    "lm_head.weight",
]
EMBEDDING, NORM, HEAD = TENSORS[0], TENSORS[-2], TENSORS[-1]
RESCALE = {"norm": True, "none": False}
SLERP = "merge_method: slerp\nbase_model: base\nmodels: [{model: base}, {model: one}]\n"
TIES = "merge_method: ties\nbase_model: base\n"


def read(text: str) -> MergeRecipe:
    return from_mergekit(yaml.parse_all(text, "m.yaml"), lambda _: LAYERS).recipe


def value(recipe: MergeRecipe, parameter: str, name: str, source: int | None = None) -> Any:
    of = None if source is None else recipe.sources[source]
    found = recipe.setting(parameter, name, locate(name), of)
    default = find_operator(recipe.operator).parameters[parameter].default
    return default if found is None else found


def t_by_layer(text: str) -> list[Any]:
    recipe = read(SLERP + f"parameters:\n  t: {text}\n")
    return [value(recipe, "t", f"model.layers.{i}.mlp.up_proj.weight") for i in range(LAYERS)]


def weights(text: str) -> dict[str, Any]:
    """The weight of the first source for each tensor, by a short name."""
    recipe = read(text)
    return {
        name.removeprefix("model.").removeprefix("layers.").removesuffix(".weight"): value(
            recipe, "weight", name, 0
        )
        for name in TENSORS
    }
