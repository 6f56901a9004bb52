"""What tests of writing mergekit recipes share: tensors, recipes, and mergekit's values."""

from __future__ import annotations

from typing import Any

from recipe.mergekit_rules import parameters_of, value_in_mergekit

from evomerge.layout import locate
from evomerge.operators.registry import Operator, find_operator
from evomerge.recipe.merge import MergeRecipe, Source
from evomerge.recipe.mergekit.obstacles import notes_on_donor
from evomerge.recipe.mergekit.write import to_mergekit

LAYERS = 4
MODULES = ["input_layernorm", "mlp.up_proj", "self_attn.q_norm", "self_attn.q_proj"]
LLAMA = [
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.{module}.weight" for i in range(LAYERS) for module in MODULES),
    "model.norm.weight",
    "lm_head.weight",
]
# "attention" is part of "post_attention_layernorm", so filters by module alone would not do.
GPT_NEOX = [
    "gpt_neox.embed_in.weight",
    *(
        f"gpt_neox.layers.{i}.{module}"
        for i in range(LAYERS)
        for module in (
            "attention.dense.bias",
            "attention.dense.weight",
            "mlp.dense_h_to_4h.weight",
            "post_attention_layernorm.weight",
        )
    ),
    "gpt_neox.final_layer_norm.weight",
    "embed_out.weight",
]
GPT2 = [
    "wte.weight",
    *(f"h.{i}.{m}.weight" for i in range(LAYERS) for m in ("attn.c_attn", "ln_1", "mlp.c_fc")),
    "ln_f.weight",
]
RESCALE = {"density": True, "norm": True, "none": False}


FIELDS = ("stack", "tokenizer", "chat_template", "base_recipe", "mergekit_compat", "seed")


def make(operator: str, *sources: Any, **parameters: Any) -> MergeRecipe:
    fields = {name: parameters.pop(name) for name in FIELDS if name in parameters}
    return MergeRecipe.model_validate(
        {
            "base": "base",
            "sources": list(sources or ("one", "two")),
            "operator": operator,
            "parameters": parameters,
        }
        | fields
    )


def write(recipe: MergeRecipe, tensors: list[str] = LLAMA) -> dict[str, Any]:
    return to_mergekit(recipe, tensors, "bfloat16").document


def notes(recipe: MergeRecipe) -> tuple[str, ...]:
    written = to_mergekit(recipe, LLAMA, "bfloat16")
    return (*notes_on_donor(recipe, written.donor), *written.notes)


def scopes(recipe: MergeRecipe, operator: Operator) -> list[tuple[str, Source | None]]:
    return [
        (parameter.name, source)
        for parameter in operator.parameters.values()
        for source in (recipe.sources if parameter.per_source else (None,))
    ]


def assert_mergekit_agrees(
    recipe: MergeRecipe, document: dict[str, Any], tensors: list[str] = LLAMA
) -> None:
    """Every parameter of every source has one value for each tensor, here and in mergekit."""
    operator = find_operator(recipe.operator)
    assert parameters_of(recipe.operator) <= {
        *("lambda" if name == "scale" else name for name in operator.parameters)
    }
    for parameter, source in scopes(recipe, operator):
        theirs = "lambda" if parameter == "scale" else parameter
        model = source.model if source else None
        for name in tensors:
            ours = recipe.setting(parameter, name, locate(name), source)
            ours = operator.parameters[parameter].default if ours is None else ours
            ours = RESCALE[ours] if parameter == "rescale" else ours
            for inferred in (False, True):
                value = value_in_mergekit(
                    document, theirs, model, name, layers=LAYERS, inferred=inferred
                )
                assert (type(value), value) == (type(ours), ours), (parameter, model, name)
