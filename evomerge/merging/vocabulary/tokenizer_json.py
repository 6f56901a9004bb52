"""Rewrites the content of a tokenizer.json for another vocabulary.

Format: https://github.com/huggingface/tokenizers. Every token is put in the model's own table,
added tokens too: otherwise ids would depend on the order in which tokenizers adds them. Merge
rules for new tokens come after the old ones, so texts without new tokens stay as they were split.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from evomerge.errors import MergeError

Json = Mapping[str, Any]

_PLAIN_TOKEN = {
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": True,
    "special": False,
}


def rewrite_tokenizer(first: Json, others: Sequence[Json], ids: Mapping[str, int]) -> Json:
    """Give a tokenizer another vocabulary.

    Args:
        first: The tokenizer that is changed; it keeps its way of splitting texts.
        others: Those that new tokens come from.
        ids: All tokens of the result and their ids.

    Raises:
        MergeError: The tokenizers are of different kinds, or `first` needs a token that is not
            in `ids`.
    """
    new = ids.keys() - vocabulary_of(first)
    donors = [other for other in others if not new.isdisjoint(_table(other))]
    added = _added_tokens(first, others, ids, new)
    return {
        **first,
        "added_tokens": added,
        "model": _model(first, donors, ids, new),
        "post_processor": _post_processor(first.get("post_processor"), ids),
        "padding": _padding(first.get("padding"), ids),
    }


def vocabulary_of(tokenizer: Json) -> dict[str, int]:
    """Return a tokenizer's tokens and their ids, added ones included."""
    table = {token: number for token, (number, _) in _table(tokenizer).items()}
    return table | {entry["content"]: entry["id"] for entry in tokenizer["added_tokens"]}


def _table(tokenizer: Json) -> dict[str, tuple[int, float]]:
    """The model's own tokens: id, and log probability where it has one."""
    tokens = tokenizer["model"]["vocab"]
    if isinstance(tokens, list):  # Unigram
        return {token: (number, score) for number, (token, score) in enumerate(tokens)}
    return {token: (number, 0.0) for token, number in tokens.items()}


def _added_tokens(
    first: Json, others: Iterable[Json], ids: Mapping[str, int], new: AbstractSet[str]
) -> list[Json]:
    found = {entry["content"]: entry for entry in first["added_tokens"]}
    for other in others:
        entries = {entry["content"]: entry for entry in other["added_tokens"]}
        found = {token: entry for token, entry in entries.items() if token in new} | found
    ordinary = set().union(*(_table(other) for other in others))
    for token in new:
        if token not in ordinary:
            found.setdefault(token, {"content": token, **_PLAIN_TOKEN})
    renumbered = [{**found[token], "id": ids[token]} for token in found if token in ids]
    return sorted(renumbered, key=lambda entry: entry["id"])


def _model(
    first: Json, donors: Sequence[Json], ids: Mapping[str, int], new: AbstractSet[str]
) -> Json:
    model = first["model"]
    kind = _kind(first)
    for donor in donors:
        if _kind(donor) != kind:
            raise MergeError(
                f"tokenizer: the tokenizers are {kind} and {_kind(donor)}, which split texts in "
                "different ways; write source: base, or merge models with tokenizers of one kind"
            )
    unknown = model.get("unk_token")
    if unknown is not None:
        _id(unknown, ids)
    if kind == "Unigram":
        return _unigram(first, donors, ids)
    changed = {**model, "vocab": ids}
    if kind == "BPE":
        changed["merges"] = _merges(model, [donor["model"] for donor in donors], ids, new)
    return changed


def _kind(tokenizer: Json) -> str:
    kind = tokenizer["model"].get("type")
    return kind or ("Unigram" if isinstance(tokenizer["model"]["vocab"], list) else "BPE")


def _unigram(first: Json, donors: Sequence[Json], ids: Mapping[str, int]) -> Json:
    model = first["model"]
    tables = [_table(tokenizer) for tokenizer in (first, *donors)]
    tokens = sorted(ids, key=lambda token: ids[token])
    if [ids[token] for token in tokens] != list(range(len(ids))):
        raise MergeError("tokenizer: a Unigram tokenizer cannot leave ids out; write source: base")
    vocabulary = [
        [token, next((table[token][1] for table in tables if token in table), 0.0)]
        for token in tokens
    ]
    unknown = model.get("unk_id")
    if unknown is not None:
        unknown = _id(model["vocab"][unknown][0], ids)
    return {**model, "vocab": vocabulary, "unk_id": unknown}


def _merges(
    model: Json, donors: Sequence[Json], ids: Mapping[str, int], new: AbstractSet[str]
) -> list[list[str]]:
    kept = [pair for pair, merged in _rules(model) if {*pair, merged} <= ids.keys()]
    known = set(kept)
    for donor in donors:
        for pair, merged in _rules(donor):
            if merged in new and pair not in known and {*pair, merged} <= ids.keys():
                kept.append(pair)
                known.add(pair)
    return [list(pair) for pair in kept]


def _rules(model: Json) -> Iterable[tuple[tuple[str, str], str]]:
    """The merge rules of a BPE model, each with the token it makes."""
    prefix = model.get("continuing_subword_prefix") or ""
    for rule in model["merges"]:
        # Before 2024, rules were written as one text.
        left, right = rule.split(" ") if isinstance(rule, str) else rule
        yield (left, right), left + right.removeprefix(prefix)


def _post_processor(processor: Any, ids: Mapping[str, int]) -> Any:
    """Give the tokens that are put around texts their new ids."""
    if not isinstance(processor, dict):
        return processor
    changed = dict(processor)
    if "processors" in changed:
        changed["processors"] = [_post_processor(part, ids) for part in changed["processors"]]
    if "special_tokens" in changed:
        changed["special_tokens"] = {
            name: {**entry, "ids": [_id(token, ids) for token in entry["tokens"]]}
            for name, entry in changed["special_tokens"].items()
        }
    for end in ("sep", "cls"):
        if end in changed:
            changed[end] = [changed[end][0], _id(changed[end][0], ids)]
    return changed


def _padding(padding: Any, ids: Mapping[str, int]) -> Any:
    if not isinstance(padding, dict):
        return padding
    return {**padding, "pad_id": _id(padding["pad_token"], ids)}


def _id(token: str, ids: Mapping[str, int]) -> int:
    if token not in ids:
        raise MergeError(
            f"tokenizer: the tokenizer needs the token {token!r}, which the result would lack; "
            f"list it under tokenizer.tokens"
        )
    return ids[token]
