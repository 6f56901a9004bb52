"""The examples that a model is refined on: read, without duplicates, with a part set aside."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from blake3 import blake3

from evomerge.sensitivity.calibration import Prompted, parse_text
from evomerge.sensitivity.text_files import read_documents

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

EXPECTED = (
    "'text', or 'prompt' and 'completion', or 'messages': a list of objects with 'role' and "
    "'content', at least one of the role 'assistant'; and optionally 'domain'; all of them texts"
)


class Message(NamedTuple):
    """A turn of a chat."""

    role: str
    content: str


Content = str | Prompted | tuple[Message, ...]
"""A plain text, a prompt with its completion, or a chat."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """Something to learn from.

    Attributes:
        content: A text, a prompt with its completion, or a chat.
        domain: What it is about, e.g. the skill that a teacher is chosen for; may be unknown.
        where: Where it was read, for messages.
    """

    content: Content
    domain: str | None = None
    where: str = field(default="", compare=False)

    def digest(self) -> str:
        """A fingerprint of the content; the domain does not count."""
        # Texts, pairs and chats are different JSON even where their words are the same.
        return blake3(json.dumps(self.content).encode()).hexdigest()


class Examples(NamedTuple):
    """Examples as they were read.

    Attributes:
        examples: All that differ, in order.
        duplicates: How many were left out, because one before had the same content.
    """

    examples: tuple[Example, ...]
    duplicates: int


def read_examples(file: Path) -> Examples:
    """Read a refine set.

    Args:
        file: A `.txt` file with one document per line, or a `.jsonl` file with an object per
            line that has `messages`, or `prompt` and `completion`, or `text`, and may have
            `domain`. Empty lines do not count.

    Raises:
        RecipeError: The file cannot be read, is of another kind, or holds no example.
    """
    found = read_documents(file, _parse, what="refine data", expected=EXPECTED)
    unique: dict[str, Example] = {}
    for where, (content, domain) in found:
        example = Example(content=content, domain=domain, where=where)
        unique.setdefault(example.digest(), example)
    return Examples(tuple(unique.values()), len(found) - len(unique))


def validation_part(examples: Sequence[Example], share: float) -> frozenset[int]:
    """Choose examples to validate on, by their content alone.

    Every domain gives its share, and at least one example if it has two, so that no skill is
    trained without being watched; the choice does not depend on the order of examples.

    Args:
        examples: The examples.
        share: The fraction of each domain to set aside, in [0, 1).

    Returns:
        Indices of the chosen examples.
    """
    domains: dict[str | None, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        domains[example.domain].append(index)
    chosen: set[int] = set()
    for members in domains.values():
        count = min(len(members) - 1, max(1, round(share * len(members)))) if share else 0
        members.sort(key=lambda index: examples[index].digest())
        chosen.update(members[:count])
    return frozenset(chosen)


def in_words(examples: Iterable[Example]) -> tuple[str, ...]:
    """What a model would read of examples, to be compared with held-out items.

    Prompts and turns are given by themselves too: a short held-out item is recognised only where
    it is a whole text.
    """
    texts: dict[str, None] = {}
    for example in examples:
        match example.content:
            case str(text):
                parts = [text]
            case Prompted(prompt, completion):
                parts = [prompt + completion, prompt]
            case turns:
                contents = [turn.content for turn in turns]
                parts = ["\n".join(contents), *contents]
        texts |= dict.fromkeys(parts)
    return tuple(texts)


def as_record(example: Example) -> dict[str, str]:
    """An example as an object of a file of calibration texts; a chat as the text of its turns."""
    match example.content:
        case str(text):
            return {"text": text}
        case Prompted(prompt, completion):
            return {"prompt": prompt, "completion": completion}
        case turns:
            return {"text": "\n".join(turn.content for turn in turns)}


def _parse(record: object) -> tuple[Content, str | None] | None:
    content: Content | None
    domain = record.get("domain") if isinstance(record, dict) else None
    if not isinstance(domain, str | None):
        return None
    match record:
        case {"messages": list(turns)}:
            content = _chat(turns)
        case _:
            content = parse_text(record)
    return None if content is None else (content, domain)


def _chat(turns: list[object]) -> tuple[Message, ...] | None:
    messages = []
    for turn in turns:
        match turn:
            case {"role": str(role), "content": str(content)}:
                messages.append(Message(role, content))
            case _:
                return None
    answered = any(message.role == "assistant" for message in messages)
    return tuple(messages) if answered else None
