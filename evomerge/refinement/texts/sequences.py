"""Examples as a model reads them: tokens, and which of them are to be predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from blake3 import blake3

from evomerge.errors import CompatibilityError, RecipeError
from evomerge.refinement.texts.chats import read_chat
from evomerge.sensitivity.calibration import Prompted, tokenise
from evomerge.sensitivity.statistics import window_of

if TYPE_CHECKING:
    from collections import abc

    from torch import Tensor

    from evomerge.refinement.texts.examples import Example


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sequence:
    """An example as a model reads it.

    Attributes:
        ids: Its tokens, shape `(tokens,)`, int64.
        supervised: Which tokens are to be predicted, shape `(tokens,)`, bool; never the first,
            which nothing comes before.
        index: The number of the example that it was made of.
        domain: What it is about, if that is known.
    """

    ids: Tensor
    supervised: Tensor
    index: int
    domain: str | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def digest(self) -> str:
        """A fingerprint of the tokens and of which are supervised."""
        content = blake3(self.ids.numpy().astype("<i8").tobytes())
        return content.update(self.supervised.numpy().tobytes()).hexdigest()


class Sequences(NamedTuple):
    """Examples as a model reads them.

    Attributes:
        sequences: Those with something to predict, in order of their examples.
        dropped: How many examples have nothing to predict, e.g. as their completion was cut off.
    """

    sequences: tuple[Sequence, ...]
    dropped: int


def make_sequences(examples: abc.Sequence[Example], tokenizer: Any, max_tokens: int) -> Sequences:
    """Tokenise examples.

    All tokens of a plain text are to be predicted but the first, of a prompt with a completion
    those of the completion, of a chat those that the assistant wrote.

    Args:
        examples: The examples.
        tokenizer: A tokenizer of transformers.
        max_tokens: A longer sequence is cut to its first so many tokens.

    Raises:
        RecipeError: A chat cannot be written, or no example has anything to predict.
    """
    made = [
        _sequence(example, index, tokenizer, max_tokens) for index, example in enumerate(examples)
    ]
    kept = tuple(sequence for sequence in made if sequence.supervised.any())
    if not kept:
        raise RecipeError(
            f"none of {len(made)} examples has a token to predict in its first {max_tokens}; give "
            "longer texts or shorter prompts, or raise max_tokens"
        )
    return Sequences(kept, len(made) - len(kept))


def check_window(model: Any, sequences: abc.Iterable[Sequence]) -> None:
    """Check that a model of transformers can read sequences whole.

    Raises:
        CompatibilityError: One is too long for it.
    """
    window, longest = window_of(model), max(map(len, sequences))
    if window is not None and longest > window:
        raise CompatibilityError(
            f"{type(model).__name__} reads at most {window} tokens at once, and a text has "
            f"{longest}; write data.max_tokens: {window}"
        )


def _sequence(example: Example, index: int, tokenizer: Any, max_tokens: int) -> Sequence:
    content = example.content
    if isinstance(content, str | Prompted):
        document = tokenise(tokenizer, content, max_tokens)
        ids = document.ids
        supervised = torch.arange(len(ids)) >= document.start
    else:
        ids, supervised = read_chat(tokenizer, content, example.where)
        ids, supervised = ids[:max_tokens], supervised[:max_tokens].clone()
        supervised[:1] = False
    return Sequence(ids=ids, supervised=supervised, index=index, domain=example.domain)
