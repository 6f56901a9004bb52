"""The tokenizer files of a merged model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from evomerge.checkpoints.tokenizer import tokenizer_files, vocabulary
from evomerge.errors import MergeError, ModelError
from evomerge.merging.vocabulary.token_ids import renumber
from evomerge.merging.vocabulary.tokenizer_json import rewrite_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# What these say is in tokenizer.json too; left as they were, they would contradict it.
_OUTDATED = {"tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", "added_tokens.json"}
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token")
_MORE_SPECIAL = ("additional_special_tokens", "extra_special_tokens")


def write_tokenizer(
    folder: Path, others: Sequence[Path], ids: Mapping[str, int]
) -> dict[str, bytes]:
    """Return the content of the files of a tokenizer with another vocabulary, by name.

    If the vocabulary is the one it has, the files are copied byte for byte.

    Args:
        folder: The model whose tokenizer it is made from.
        others: The models that further tokens come from.
        ids: All tokens of the result and their ids.

    Raises:
        ModelError: There is no tokenizer.json.
        MergeError: The tokenizer cannot have this vocabulary.
    """
    files = {file.name: file.read_bytes() for file in tokenizer_files(folder)}
    old = vocabulary(folder)
    if old == ids:
        return files
    first = rewrite_tokenizer(_read(folder), [_read(o) for o in others if _has(o)], ids)
    written = {name: data for name, data in files.items() if name not in _OUTDATED}
    written["tokenizer.json"] = _json(first)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if name in written:
            settings = _settings(json.loads(written[name]), first["added_tokens"], ids)
            written[name] = _json(settings)
    if "generation_config.json" in written:
        new_ids = {number: ids[token] for token, number in (old or {}).items() if token in ids}
        settings = renumber(json.loads(written["generation_config.json"]), new_ids)
        written["generation_config.json"] = _json(settings)
    return written


def with_chat_template(files: Mapping[str, bytes], template: str) -> dict[str, bytes]:
    """Return tokenizer files with another chat template, in the place where it is looked for."""
    changed = {name: data for name, data in files.items() if name != "chat_template.json"}
    changed["chat_template.jinja"] = template.encode()
    if "tokenizer_config.json" in changed:
        settings = json.loads(changed["tokenizer_config.json"])
        if settings.pop("chat_template", None) is not None:
            changed["tokenizer_config.json"] = _json(settings)
    return changed


def _has(folder: Path) -> bool:
    return any(file.name == "tokenizer.json" for file in tokenizer_files(folder))


def _read(folder: Path) -> dict[str, Any]:
    for file in tokenizer_files(folder):
        if file.name == "tokenizer.json":
            content: dict[str, Any] = json.loads(file.read_bytes())
            return content
    raise ModelError(
        f"{folder}: has no tokenizer.json, which is needed to change its vocabulary; load its "
        "tokenizer with transformers and save it there"
    )


def _json(content: object) -> bytes:
    return json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"


def _settings(
    settings: dict[str, Any], added: Sequence[Mapping[str, Any]], ids: Mapping[str, int]
) -> dict[str, Any]:
    """Bring tokenizer_config.json or special_tokens_map.json to the vocabulary."""
    changed = dict(settings)
    for key in _SPECIAL:
        if key in changed and changed[key] is not None and _content(changed[key]) not in ids:
            raise MergeError(
                f"tokenizer: the result would lack {_content(changed[key])!r}, its {key}; list "
                "it under tokenizer.tokens"
            )
    for key in _MORE_SPECIAL:
        if isinstance(changed.get(key), list):
            changed[key] = [token for token in changed[key] if _content(token) in ids]
    if "added_tokens_decoder" in changed:
        changed["added_tokens_decoder"] = {
            str(entry["id"]): {key: entry[key] for key in entry if key != "id"} for entry in added
        }
    return changed


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token
