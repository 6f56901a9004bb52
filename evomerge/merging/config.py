"""config.json of a merged model: the base's, with what stacking and another dtype change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from evomerge.recipe.origins import base_start, slab_members

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.merge import MergeRecipe

Config = dict[str, Any]

LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")
"""What families call their number of layers."""

LAYER_NUMBERS = ("mlp_only_layers", "attn_layer_indices", "full_attn_idxs", "moe_layers")
"""Lists of the layers that are of some kind, rather than with one entry for each layer."""

NOT_OF_LAYERS = ("architectures", "token_id", "token_ids", "id2label", "label2id")
"""Ends of names of lists that have as many entries as there are layers only by chance."""


def merged_config(recipe: MergeRecipe, library: SourceLibrary) -> Config:
    """Return config.json of what a recipe makes.

    Lists with an entry for each layer follow their layers, from the model that each layer comes
    from; all other values are the base's.
    """
    if recipe.base_recipe is None:
        config = dict(library.model(recipe.base).config)
    else:
        config = merged_config(recipe.base_recipe, library)
    if recipe.stack is not None:
        config = _stacked(config, list(_layers(recipe, library, config)))
    dtype = _dtype(recipe)
    if dtype is not None:
        config = {key: value for key, value in config.items() if key != "torch_dtype"}
        config["dtype"] = dtype
    return config


def config_file(recipe: MergeRecipe, library: SourceLibrary) -> bytes:
    """Return the content of config.json; a copy byte for byte of the base's if nothing changes."""
    if recipe.base_recipe is None and recipe.stack is None and _dtype(recipe) is None:
        return (library.model(recipe.base).folder / "config.json").read_bytes()
    return as_json(merged_config(recipe, library))


def _dtype(recipe: MergeRecipe) -> str | None:
    """What a recipe says about the dtype of the result."""
    if recipe.dtype == "base" and recipe.mergekit_compat is not None:
        return recipe.mergekit_compat.dtype
    return None if recipe.dtype == "base" else recipe.dtype


def as_json(config: Mapping[str, Any]) -> bytes:
    """A config as it is written to a file."""
    return json.dumps(config, indent=2).encode() + b"\n"


def _layers(
    recipe: MergeRecipe, library: SourceLibrary, base: Config
) -> Iterator[tuple[Config, int]]:
    """The config and the layer that each layer of the result comes from."""
    for slab in recipe.stack or ():
        index, start = slab_members(recipe, slab)[0]
        source = recipe.sources[index]
        if source.model is not None:
            config = dict(library.model(source.model).config)
        elif source.recipe is not None:
            config = merged_config(source.recipe, library)
        else:
            config, start = base, base_start(recipe, slab)
        yield from ((config, start + layer) for layer in range(slab.height))


def _stacked(config: Config, layers: Sequence[tuple[Config, int]]) -> Config:
    """A config, or a part of one, with other layers."""
    old = next((config[key] for key in LAYER_COUNTS if type(config.get(key)) is int), None)
    stacked = dict(config)
    for key, value in config.items():
        if isinstance(value, dict) and key.endswith("text_config"):
            parts = [(source.get(key, value), layer) for source, layer in layers]
            stacked[key] = _stacked(value, parts)
        elif key in LAYER_COUNTS and value == old and type(value) is int:
            stacked[key] = len(layers)
        elif key in LAYER_NUMBERS and isinstance(value, list):
            stacked[key] = [
                new
                for new, (source, layer) in enumerate(layers)
                if layer in source.get(key, value)
            ]
        elif isinstance(value, list) and len(value) == old and not key.endswith(NOT_OF_LAYERS):
            stacked[key] = [_entry(source, key, value, layer) for source, layer in layers]
    return stacked


def _entry(source: Mapping[str, Any], key: str, ours: list[Any], layer: int) -> Any:
    theirs = source.get(key)
    # A model that does not say so has layers like those of the base.
    listed = theirs if isinstance(theirs, list) and layer < len(theirs) else ours
    return listed[min(layer, len(listed) - 1)]
