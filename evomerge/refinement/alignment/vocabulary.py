"""The tokens of a tokenizer, as the bytes that each stands for in a text.

Bytes are what tokenizers of all kinds have in common: `Ġworld` of a byte-level BPE and `▁world`
of SentencePiece are both ` world`. Format: https://github.com/huggingface/tokenizers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from evomerge.checkpoints.tokenizer import tokenizer_content, vocabulary
from evomerge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


_WORD_BOUNDARY = "▁"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")

# A byte-level BPE writes printable bytes as themselves and the others as the characters from 256.
_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_OTHERS = (byte for byte in range(256) if byte not in _PRINTABLE)
_BYTE_OF = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(256 + number): byte for number, byte in enumerate(_OTHERS)
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """The tokens of a tokenizer; an id that belongs to no token has None.

    Attributes:
        tokens: As the tokenizer writes them, by id.
        spellings: The bytes that they stand for in a text, by id. Those of one text in a row
            spell it, unless the tokenizer changes texts before it splits them; some put a space
            in front.
    """

    tokens: tuple[str | None, ...]
    spellings: tuple[bytes | None, ...]

    def __len__(self) -> int:
        """The number of ids, from 0 to the last that belongs to a token."""
        return len(self.tokens)

    def digest(self) -> str:
        """A fingerprint of the tokens, what they stand for, and their ids."""
        return blake3(repr((self.tokens, self.spellings)).encode()).hexdigest()

    def words(self, ids: Sequence[int]) -> list[str]:
        """The texts of tokens without spaces, by which word boundaries are marked."""
        return [as_text(self.spellings[number] or b"").replace(" ", "") for number in ids]

    def texts(self) -> tuple[str | None, ...]:
        """The spellings as texts, where bytes of incomplete characters stay what they are."""
        return tuple(None if each is None else as_text(each) for each in self.spellings)


def as_text(spelling: bytes) -> str:
    """What bytes spell; those of incomplete characters become surrogates, one each."""
    return spelling.decode("utf-8", errors="surrogateescape")


def read_vocabulary(folder: Path) -> Vocabulary:
    """Read the vocabulary of a model folder from its tokenizer.json.

    Raises:
        ModelError: There is none, or it has no readable vocabulary.
    """
    content, ids = tokenizer_content(folder), vocabulary(folder)
    if content is None or ids is None:
        raise ModelError(
            f"{folder}: has no tokenizer.json, which tells what its tokens stand for; load its "
            "tokenizer with transformers and save it there"
        )
    tokens: list[str | None] = [None] * (max(ids.values(), default=-1) + 1)
    spellings: list[bytes | None] = [None] * len(tokens)
    for token, spelling in _spell(content, ids).items():
        tokens[ids[token]], spellings[ids[token]] = token, spelling
    return Vocabulary(tokens=tuple(tokens), spellings=tuple(spellings))


def _spell(content: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, bytes]:
    parts = [content.get(name) for name in ("normalizer", "pre_tokenizer", "decoder")]
    model = content["model"]
    # These are looked for in the text as they are.
    literal = {entry["content"] for entry in content.get("added_tokens") or []}
    continuing = model.get("continuing_subword_prefix") or ""
    strings = frozenset(_strings(parts))
    if "ByteLevel" in strings:
        spelled = {token: _byte_level(token) for token in ids}
    elif continuing:
        spelled = {token: _piece_of_word(token, continuing) for token in ids}
    else:
        boundary = _WORD_BOUNDARY if strings & {_WORD_BOUNDARY, "Metaspace"} else None
        spelled = {token: _sentence_piece(token, boundary) for token in ids}
        if model.get("byte_fallback"):
            found = ((token, _BYTE.fullmatch(token)) for token in ids)
            spelled |= {token: bytes.fromhex(byte[1]) for token, byte in found if byte}
    return spelled | {token: token.encode() for token in ids.keys() & literal}


def _byte_level(token: str) -> bytes:
    if all(character in _BYTE_OF for character in token):
        return bytes(_BYTE_OF[character] for character in token)
    return token.encode()


def _piece_of_word(token: str, continuing: str) -> bytes:
    if token.startswith(continuing):
        return token.removeprefix(continuing).encode()
    return b" " + token.encode()


def _sentence_piece(token: str, boundary: str | None) -> bytes:
    return (token.replace(boundary, " ") if boundary else token).encode()


def _strings(part: Any) -> Iterator[str]:
    """Every text anywhere in parsed JSON."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, dict):
        for value in part.values():
            yield from _strings(value)
    elif isinstance(part, list):
        for value in part:
            yield from _strings(value)
