"""Chats as a model reads them, and which of their tokens the assistant wrote.

Few chat templates mark the assistant's turns, and many write a turn differently when others
follow it. What is compared is therefore always the whole chat, written twice: once as it is, and
once with other words in one turn. Where the two differ is what the template made of that turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from evomerge.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from evomerge.refinement.texts.examples import Message

_OTHER_WORDS = "\ue000other words\ue000"
"""A text that no content begins or ends like."""

Span = tuple[int, int]


class Turn(NamedTuple):
    """What a template made of a message of the assistant.

    Attributes:
        characters: Where it is in the whole text: the first, and the one after the last.
        tokens: The tokens that have a part of it, and behind them those that end it.
    """

    characters: Span
    tokens: tuple[int, ...]


class WrittenChat(NamedTuple):
    """A chat as a template writes it.

    Attributes:
        text: The whole chat.
        ids: Its tokens.
        offsets: For each token the first character that it comes from, and the one after the last.
        turns: Those of the assistant.
    """

    text: str
    ids: Sequence[int]
    offsets: Sequence[Span]
    turns: tuple[Turn, ...]


def read_chat(
    tokenizer: Any, messages: Sequence[Message], where: str = "a chat"
) -> tuple[Tensor, Tensor]:
    """Tokenise a chat with the tokenizer's chat template.

    Args:
        tokenizer: A fast tokenizer of transformers with a chat template.
        messages: The turns.
        where: Where the chat was read, for messages.

    Returns:
        Tokens, shape `(tokens,)`, int64, and whether each was written by the assistant, bool: the
        content of its turns, and behind each of them the token that ends it.

    Raises:
        RecipeError: The template cannot write the chat, or the tokenizer does not say which
            characters its tokens stand for.
    """
    chat = write_chat(tokenizer, messages, where)
    supervised = torch.zeros(len(chat.ids), dtype=torch.bool)
    supervised[[token for turn in chat.turns for token in turn.tokens]] = True
    return torch.tensor(chat.ids, dtype=torch.long), supervised


def write_chat(tokenizer: Any, messages: Sequence[Message], where: str = "a chat") -> WrittenChat:
    """Write a chat with the tokenizer's chat template; arguments and errors as above."""
    if not tokenizer.is_fast:
        raise RecipeError(
            f"{where}: the model's tokenizer does not say where its tokens are in a text, so the "
            "assistant's turns cannot be found; give 'prompt' and 'completion' instead"
        )
    text = _write(tokenizer, messages, where)
    spans = [
        _difference(text, _write(tokenizer, _in_other_words(messages, number), where))
        for number, message in enumerate(messages)
        if message.role == "assistant"
    ]
    # The template has written the special tokens already.
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    ends = {*tokenizer.added_tokens_decoder, tokenizer.eos_token_id}
    is_end = [token in ends for token in ids]
    turns = []
    for start, stop in spans:
        # A token may hold the template's last words and the turn's first: it counts.
        inside = [n for n, (a, b) in enumerate(offsets) if a < stop and b > start]
        ending = _ending(text, stop, offsets, is_end)
        turns.append(Turn(characters=(start, stop), tokens=(*inside, *ending)))
    return WrittenChat(text=text, ids=ids, offsets=offsets, turns=tuple(turns))


def _write(tokenizer: Any, messages: Sequence[Message], where: str) -> str:
    from jinja2 import TemplateError

    turns = [message._asdict() for message in messages]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False))
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        cause = " ".join(str(error).split())
        raise RecipeError(
            f"{where}: the model's chat template cannot write these messages: {cause}; change "
            "them, or give 'prompt' and 'completion' instead"
        ) from error


def _in_other_words(messages: Sequence[Message], number: int) -> list[Message]:
    changed = messages[number]._replace(content=_OTHER_WORDS)
    return [*messages[:number], changed, *messages[number + 1 :]]


def _difference(text: str, other: str) -> Span:
    """Where `text` is not what `other` is; an empty span at its end if they are the same."""
    start = _alike(text, other)
    return start, len(text) - _alike(text[start:][::-1], other[start:][::-1])


def _alike(text: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = enumerate(zip(text, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(text), len(other)))


def _ending(text: str, stop: int, offsets: Sequence[Span], is_end: Sequence[bool]) -> list[int]:
    """The tokens from the end of a turn's content to the one that ends the turn, if one does."""
    found = []
    for number, (first, last) in enumerate(offsets):
        if first >= stop:
            found.append(number)
            if is_end[number]:
                return found
            # Some tokenizers say that a space comes from no character.
            if text[first:last].strip():
                break
    return []
