"""Which texts are learned from, and which tell whether that helps."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from evomerge.errors import RecipeError
from evomerge.refinement.texts.examples import validation_part

if TYPE_CHECKING:
    from collections import abc

    from evomerge.refinement.texts.examples import Example
    from evomerge.refinement.texts.sequences import Sequence


class Parts(NamedTuple):
    """Sequences in two parts.

    Attributes:
        learned: Those that are learned from.
        watched: Those that are set aside.
    """

    learned: tuple[Sequence, ...]
    watched: tuple[Sequence, ...]


def set_aside(
    read: abc.Sequence[Sequence], examples: abc.Sequence[Example], share: float
) -> Parts:
    """Set a share of the sequences of each domain aside.

    Args:
        read: Sequences with something to predict.
        examples: The examples that they were made of, by their numbers.
        share: The fraction, in [0, 1).

    Raises:
        RecipeError: A share is asked for, and there is nothing to set aside.
    """
    # Not of all examples: those with nothing to predict would watch or be learned in vain.
    held = validation_part([examples[each.index] for each in read], share)
    if share and not held:
        raise RecipeError(
            f"data.validation: {share:g} sets no text aside of {len(read)} with a token to "
            "predict, as a domain keeps its only one; give more, or write data.validation: 0"
        )
    return Parts(
        learned=tuple(each for number, each in enumerate(read) if number not in held),
        watched=tuple(each for number, each in enumerate(read) if number in held),
    )
