"""Where the tokens of an example are, in bytes that are the same for every tokenizer.

Bytes of a text or of a prompt with its completion are counted from its start. A chat is written by
each model's own template, so that only what the assistant said is the same: bytes are counted
through the contents of its messages, and what a template writes around them, or leaves out, has
no place. Behind each content one byte stands for whatever ends the turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, takewhile
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from evomerge.live_model import load_tokenizer
from evomerge.refinement.alignment.spans import token_ends
from evomerge.refinement.alignment.vocabulary import Vocabulary, read_vocabulary
from evomerge.refinement.texts.chats import write_chat
from evomerge.sensitivity.calibration import Prompted

if TYPE_CHECKING:
    from collections import abc
    from pathlib import Path

    from evomerge.refinement.texts.examples import Content, Message
    from evomerge.refinement.texts.sequences import Sequence

    Places = list[tuple[int, int | None]]
    """Ends and rows, as those of `Placed`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """A tokenizer of transformers, and what its tokens stand for."""

    tokenizer: Any
    vocabulary: Vocabulary

    @property
    def special(self) -> frozenset[int]:
        """The tokens that stand for no text, such as those that end a turn."""
        added = self.tokenizer.added_tokens_decoder
        return frozenset(number for number, token in added.items() if token.special)


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """The tokens of an example, up to where it was cut off.

    Special ones in front of a text are left out, and so is what the template of a chat writes: in
    front of each content, and behind it, one without a row stands for that.

    Attributes:
        supervised: The tokens that are to be predicted.
        ends: For each token the number of bytes up to its end; tokens behind the text count as
            one byte each.
        rows: For each its number among the supervised ones, or None.
    """

    supervised: tuple[int, ...]
    ends: tuple[int, ...]
    rows: tuple[int | None, ...]

    @property
    def size(self) -> int:
        """How many bytes the supervised tokens have."""
        spans = zip((0, *self.ends), self.ends, self.rows, strict=False)
        return sum(end - before for before, end, row in spans if row is not None)


def open_reader(folder: Path) -> Reader:
    """Load the tokenizer of a model folder.

    Raises:
        ModelError: It cannot be loaded, or does not tell what its tokens stand for.
    """
    return Reader(tokenizer=load_tokenizer(folder), vocabulary=read_vocabulary(folder))


def place(reader: Reader, content: Content, read: Sequence | None) -> Placed:
    """Say where the tokens of a sequence are in the example that it was made of.

    Args:
        reader: The tokenizer that made it.
        content: The example's.
        read: The sequence; None if it was dropped, since nothing of it is to be predicted.

    Raises:
        RecipeError: A chat cannot be written.
    """
    if read is None:
        return Placed(supervised=(), ends=(), rows=())
    numbers = (read.supervised.cumsum(0) - 1).tolist()
    flags = read.supervised.tolist()
    rows = [number if flag else None for number, flag in zip(numbers, flags, strict=True)]
    match content:
        case str(text):
            places = _in_text(reader, text, rows)
        case Prompted(prompt, completion):
            places = _in_text(reader, prompt + completion, rows)
        case messages:
            places = _in_chat(reader, messages, rows)
    return Placed(
        supervised=tuple(read.ids[read.supervised].tolist()),
        ends=tuple(end for end, _ in places),
        rows=tuple(row for _, row in places),
    )


def _in_text(reader: Reader, text: str, rows: abc.Sequence[int | None]) -> Places:
    encoded = reader.tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    ids, is_special = encoded["input_ids"], encoded["special_tokens_mask"]
    front = len(list(takewhile(bool, is_special)))
    behind = len(list(takewhile(bool, reversed(is_special[front:]))))
    inside = slice(front, len(ids) - behind)
    ends = token_ends(text, _spellings(reader, ids[inside]), encoded["offset_mapping"][inside])
    size = _size(text)
    # Whatever was cut off has no row.
    return list(zip((*ends, *range(size + 1, size + 1 + behind)), rows[front:], strict=False))


def _in_chat(
    reader: Reader, messages: abc.Sequence[Message], rows: abc.Sequence[int | None]
) -> Places:
    chat = write_chat(reader.tokenizer, messages)
    ends = token_ends(chat.text, _spellings(reader, chat.ids), chat.offsets)
    contents = [message.content for message in messages if message.role == "assistant"]
    spans = list(pairwise([0, *ends]))
    places: Places = []
    start = 0
    for content, turn in zip(contents, chat.turns, strict=True):
        said = chat.text[slice(*turn.characters)]
        # Templates trim contents, or leave out what comes before an answer.
        left_out = content.rfind(said)
        tokens = [token for token in turn.tokens if token < len(rows)]
        if left_out >= 0 and tokens:
            first, stop = start + _size(content[:left_out]), start + _size(content)
            last, shift = first + _size(said), first - _size(chat.text[: turn.characters[0]])
            own: Places = [(first, None), (stop + 1, None)]
            for token in tokens:
                begin, end = (each + shift for each in spans[token])
                # One that holds words of the template too has no partner.
                is_own = first <= begin and (end <= last or last <= begin)
                own.append((end if end <= last else stop + 2, rows[token] if is_own else None))
            places += sorted(own, key=itemgetter(0))
        start += _size(content) + 3
    return places


def _spellings(reader: Reader, ids: abc.Sequence[int]) -> list[bytes]:
    return [reader.vocabulary.spellings[number] or b"" for number in ids]


def _size(text: str) -> int:
    return len(text.encode())
