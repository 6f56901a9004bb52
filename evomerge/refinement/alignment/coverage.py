"""How much of a data set a teacher with another tokenizer can teach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evomerge.errors import CompatibilityError
from evomerge.refinement.alignment.vocabulary_map import UNMATCHED

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.refinement.alignment.pairs import Pair


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """What was aligned; those of several texts add up.

    Attributes:
        bytes_alone: Bytes of the texts that are one token of the student and one of the teacher.
        bytes: Bytes of the texts.
        fallbacks: Tokens of the student that no row of the teacher predicts.
        positions: Tokens of the student.
    """

    bytes_alone: int = 0
    bytes: int = 0
    fallbacks: int = 0
    positions: int = 0

    def __add__(self, other: Coverage) -> Coverage:
        return Coverage(
            bytes_alone=self.bytes_alone + other.bytes_alone,
            bytes=self.bytes + other.bytes,
            fallbacks=self.fallbacks + other.fallbacks,
            positions=self.positions + other.positions,
        )

    @property
    def share(self) -> float:
        """The fraction of bytes in groups of one token each; 1 without any text.

        Where a template changes what was said, no token has a place in it.
        """
        return self.bytes_alone / self.bytes if self.bytes else float(not self.positions)

    @property
    def fallback_share(self) -> float:
        """The fraction of the student's tokens that no row of the teacher predicts."""
        return self.fallbacks / self.positions if self.positions else 0.0

    def sentence(self, to_student: Tensor) -> str:
        """Say it in one sentence.

        Args:
            to_student: The map of the teacher's vocabulary by which rows were aligned.
        """
        return (
            f"{self.share:.1%} of the bytes are one token in both tokenizers, "
            f"{matched(to_student):.1%} of the teacher's vocabulary is in the student's, and "
            f"{self.fallback_share:.1%} of the positions learn their own token alone"
        )

    def check(self, minimum: float, teacher: str) -> None:
        """Refuse to train on noise.

        Args:
            minimum: The least fraction of bytes in groups of one token each.
            teacher: The teacher's name, for the message.

        Raises:
            CompatibilityError: It is less.
        """
        if self.share < minimum:
            raise CompatibilityError(
                f"{teacher}: only {self.share:.1%} of the bytes of the data are one token in its "
                f"tokenizer and the student's; allowed: {minimum:.1%} and more; use a loss over "
                "groups of tokens (alm), another teacher or a lower minimum"
            )


def cover(pair: Pair, fallbacks: int) -> Coverage:
    """What is covered of one text.

    Args:
        pair: The text in both tokenizations.
        fallbacks: Tokens of the student that no row of the teacher predicts.
    """
    return Coverage(
        bytes_alone=sum(group.size for group in pair.groups if group.is_alone),
        bytes=pair.student.size,
        fallbacks=fallbacks,
        positions=len(pair.student.supervised),
    )


def matched(to_student: Tensor) -> float:
    """The fraction of a teacher's vocabulary that a map has a token of the student for."""
    return float((to_student != UNMATCHED).double().mean()) if len(to_student) else 0.0
