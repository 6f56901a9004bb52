"""Settings that name tokens by id, brought to another vocabulary."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_IDS = re.compile(r"token_(?:id|ids|index)$|^(?:begin_)?suppress_tokens$")


def renumber(settings: Mapping[str, Any], new_ids: Mapping[int, int]) -> dict[str, Any]:
    """Give every token id in a config.json or generation_config.json its new value.

    Args:
        settings: The file's content; sections within it are renumbered too.
        new_ids: From old id to new id. Others belong to no token of the result: they leave
            lists, and null takes their place elsewhere.
    """
    return {
        key: renumber(value, new_ids)
        if isinstance(value, dict)
        else _renumber_value(value, new_ids)
        if _IDS.search(key)
        else value
        for key, value in settings.items()
    }


def _renumber_value(value: Any, new_ids: Mapping[int, int]) -> Any:
    if isinstance(value, list):
        return [new_ids[entry] for entry in value if type(entry) is int and entry in new_ids]
    return new_ids.get(value) if type(value) is int else value


def with_token_ids_of(settings: Mapping[str, Any], donor: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the token ids in `settings` by those of a config.json with another tokenizer."""
    changed: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            section = donor.get(key)
            changed[key] = with_token_ids_of(value, section if isinstance(section, dict) else {})
        else:
            changed[key] = donor.get(key) if _IDS.search(key) else value
    return changed | {key: donor[key] for key in donor if _IDS.search(key)}


def with_vocabulary_size(config: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Set the number of embeddings where a config.json has it."""
    changed = {**config}
    if isinstance(config.get("text_config"), dict):
        changed["text_config"] = with_vocabulary_size(config["text_config"], size)
    if "vocab_size" in config:
        changed["vocab_size"] = size
    return changed
