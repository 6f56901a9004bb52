"""Tokenizers of several kinds as alignment reads them, and texts that they read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from tokenizers import processors
from trained_tokenizers import byte_level, llama, vocabulary_of, word_piece
from transformers import PreTrainedTokenizerFast

from evomerge.refinement.alignment.placed import Placed, Reader, place
from evomerge.refinement.texts.examples import Content, Example
from evomerge.refinement.texts.sequences import make_sequences

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TEXTS = st.text(st.sampled_from("the cat sat, on mät 日\U0001f642\n"), min_size=8, max_size=40)


def reader(tokenizer: Tokenizer, **special: str) -> Reader:
    """As transformers has it; special tokens may be put around texts."""
    fast: Any = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    if special:
        around = [f"{special['bos_token']}:0", "$A:0", f"{special['eos_token']}:0"]
        fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=" ".join(around),
            special_tokens=[(own, fast.convert_tokens_to_ids(own)) for own in special.values()],
        )
    return Reader(tokenizer=fast, vocabulary=vocabulary_of(fast.backend_tokenizer))


PLAIN = reader(byte_level())
BYTES = reader(byte_level(258))
AROUND = reader(byte_level(300), bos_token="<|start|>", eos_token="<|end|>")
LLAMA = reader(llama())
WORDS = reader(word_piece())


def placed(own: Reader, content: Content, most: int = 99) -> Placed:
    made = make_sequences([Example(content=content)], own.tokenizer, most).sequences[0]
    return place(own, content, made)
