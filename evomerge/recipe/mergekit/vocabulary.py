"""Reads what a mergekit recipe says about tokens and chat templates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evomerge.recipe.mergekit.entries import Entries
    from evomerge.recipe.yaml import Path

WORDS = ("union", "base")


def read_vocabulary(entries: Entries, data: Mapping[str, Any]) -> dict[str, Any]:
    """Our `tokenizer` and `chat_template` for a document; empty if it says nothing of them."""
    found: dict[str, Any] = {}
    if data.get("chat_template") is not None:
        found["chat_template"] = data["chat_template"]
    if data.get("tokenizer") is not None:
        if data.get("tokenizer_source") is not None:
            entries.refuse(("tokenizer",), "give either tokenizer or tokenizer_source")
        found["tokenizer"] = _tokenizer(entries, data["tokenizer"])
    elif data.get("tokenizer_source") is not None:
        source = data["tokenizer_source"]
        found["tokenizer"] = {"source": _source(entries, source, ("tokenizer_source",))}
    return found


def _source(entries: Entries, given: Any, path: Path) -> str:
    return given if given in WORDS else entries.model(given, path)


def _tokenizer(entries: Entries, given: Any) -> dict[str, Any]:
    path: Path = ("tokenizer",)
    settings = entries.keys(given, path, {"source", "tokens", "pad_to_multiple_of"})
    found: dict[str, Any] = {
        "source": _source(entries, settings.get("source", "union"), (*path, "source"))
    }
    if settings.get("pad_to_multiple_of") is not None:
        found["pad_to_multiple_of"] = settings["pad_to_multiple_of"]
    tokens = settings.get("tokens") or {}
    if not isinstance(tokens, dict):
        entries.refuse((*path, "tokens"), f"tokens: expected keys and values, found {tokens!r}")
    found["tokens"] = {
        token: _token(entries, rule, (*path, "tokens", token)) for token, rule in tokens.items()
    }
    return found


def _token(entries: Entries, given: Any, path: Path) -> dict[str, Any]:
    rule = entries.keys(given, path, {"source", "force"})
    found: dict[str, Any] = {}
    if rule.get("force") is not None:
        found["force"] = entries.flag(rule["force"], "force", (*path, "force"))
    source = rule.get("source")
    if not isinstance(source, dict) or "kind" not in source:
        return found if source is None else found | {"source": entries.model(source, path)}
    path = (*path, "source")
    if source["kind"] == "zero":
        return found | {"source": {"kind": "zero"}}
    if source["kind"] != "model_token":
        entries.refuse(path, f"kind: expected model_token or zero, found {source['kind']!r}")
    known = entries.keys(source, path, {"kind", "model", "token", "token_id"})
    given_keys = {key: value for key, value in known.items() if value is not None}
    model = {"model": entries.model(source.get("model"), (*path, "model"))}
    return found | {"source": given_keys | model}
