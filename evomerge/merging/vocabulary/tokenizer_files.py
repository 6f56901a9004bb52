"""The tokenizer files of a merged model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.checkpoints.json_files import parse_object, read_object
from evomerge.checkpoints.tokenizer import tokenizer_files, vocabulary
from evomerge.errors import MergeError, ModelError
from evomerge.merging.vocabulary.token_ids import renumber
from evomerge.merging.vocabulary.tokenizer_json import rewrite_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
        ModelError: There is no tokenizer.json, or a file is broken.
        MergeError: The tokenizer cannot have this vocabulary.
    """
    files = {file.name: file.read_bytes() for file in tokenizer_files(folder)}
    old = vocabulary(folder)
    if old == ids:
        return files
    read, donors = _read(folder), [_read(other) for other in others if _has(other)]
    try:
        first = rewrite_tokenizer(read, donors, ids)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        names = " or ".join(str(each / "tokenizer.json") for each in (folder, *others))
        raise ModelError(
            f"{names}: is built unlike any tokenizer known here: {error!r}"
        ) from error
    written = {name: data for name, data in files.items() if name not in _OUTDATED}
    written["tokenizer.json"] = _json(first)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if name in written:
            settings = parse_object(written[name], folder / name)
            written[name] = _json(_settings(settings, first["added_tokens"], ids))
    if "generation_config.json" in written:
        new_ids = {number: ids[token] for token, number in (old or {}).items() if token in ids}
        name = "generation_config.json"
        settings = renumber(parse_object(written[name], folder / name), new_ids)
        written["generation_config.json"] = _json(settings)
    return written


def with_chat_template(files: Mapping[str, bytes], template: str) -> dict[str, bytes]:
    """Return tokenizer files with another chat template, in the place where it is looked for."""
    changed = {name: data for name, data in files.items() if name != "chat_template.json"}
    changed["chat_template.jinja"] = template.encode()
    if "tokenizer_config.json" in changed:
        name = "tokenizer_config.json"
        settings = parse_object(changed[name], Path(name))
        if settings.pop("chat_template", None) is not None:
            changed[name] = _json(settings)
    return changed


def _has(folder: Path) -> bool:
    return any(file.name == "tokenizer.json" for file in tokenizer_files(folder))


def _read(folder: Path) -> dict[str, Any]:
    for file in tokenizer_files(folder):
        if file.name == "tokenizer.json":
            return read_object(file)
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
