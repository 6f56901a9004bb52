"""Small tokenizers of all kinds, trained on a few lines when they are first asked for."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from evomerge.refinement.alignment.vocabulary import Vocabulary, read_vocabulary

LINES = [
    "the cat sat on the mat, and the dog sat on the log.",
    "un caf\u00e9 na\u00efve, s'il vous pla\u00eet",
    "def add(a, b):\n    return a + b\n",
    "\u65e5\u672c\u8a9e \u306e \U0001f642 text",
    "the caterpillar, the doghouse and the matador",
] * 4
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


@cache
def byte_level(size: int = 340) -> Tokenizer:
    """A byte-level BPE; with the size of 256 it has bytes alone, and two special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # Offsets then leave out spaces.
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        LINES, trainers.BpeTrainer(vocab_size=size, initial_alphabet=BYTES, show_progress=False)
    )
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True), "<|start|>"])
    return tokenizer


@cache
def llama() -> Tokenizer:
    """A BPE with a space in front of the text, and bytes for unknown characters."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=90, show_progress=False))
    merges = _merges(trained)
    tokens = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [token for token in sorted(trained.get_vocab()) if len(token) == 1]
    tokens += [left + right for left, right in merges]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    return tokenizer


@cache
def unigram() -> Tokenizer:
    """A Unigram model behind NFKC, which changes texts."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        LINES,
        trainers.UnigramTrainer(
            vocab_size=90, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
        ),
    )
    return tokenizer


@cache
def word_piece() -> Tokenizer:
    """A WordPiece model that drops spaces, accents and capitals."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(
        LINES,
        trainers.WordPieceTrainer(
            vocab_size=120, special_tokens=["[UNK]", "[SEP]"], show_progress=False
        ),
    )
    return tokenizer


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """What the tokens of a tokenizer stand for, as it is read from a model's folder."""
    with TemporaryDirectory() as folder:
        tokenizer.save(f"{folder}/tokenizer.json")
        return read_vocabulary(Path(folder))


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [(left, right) for left, right in merges]
