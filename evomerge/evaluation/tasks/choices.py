"""How sure a model is of the right choice: what tells equal accuracies apart, at no extra pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class RightChoice:
    """Which of a document's choices is right.

    Attributes:
        index: Its index.
        choices: How many choices there are.
    """

    index: int
    choices: int

    def sureness(self, answers: Sequence[tuple[float, bool]]) -> float:
        """Probability of the right choice among all choices.

        Args:
            answers: To the document's requests. Behind the choices, some metrics ask for them
                again, without their context.
        """
        likelihoods = [likelihood for likelihood, _ in answers[: self.choices]]
        highest = max(likelihoods)
        parts = [math.exp(value - highest) for value in likelihoods]
        return parts[self.index] / sum(parts)


def right_choice(task: Any, document: Any) -> RightChoice | None:
    """Find the right choice of a document; lm-eval renders templates for it, which takes a while.

    Args:
        task: lm-eval's task.
        document: One of its documents.

    Returns:
        None where the document is not several choices that follow one context.
    """
    if task.get_config("output_type") != "multiple_choice" or task.multiple_input:
        return None
    choices, right = task.doc_to_choice(document), task.doc_to_target(document)
    if isinstance(right, str) and right in choices:
        right = choices.index(right)
    if not isinstance(right, int) or not 0 <= right < len(choices):
        return None
    return RightChoice(right, len(choices))
