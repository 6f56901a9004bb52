"""How sure a model is of the right choice: what tells equal accuracies apart, at no extra pass."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def sureness(task: Any, document: Any, answers: Sequence[Any]) -> float | None:
    """Probability of the right choice among all choices of a document.

    Args:
        task: lm-eval's task.
        document: One of its documents.
        answers: The model's answers to the document's requests.

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
    # Behind the choices, some metrics ask for them again, without their context.
    likelihoods = [likelihood for likelihood, _ in answers[: len(choices)]]
    highest = max(likelihoods)
    parts = [math.exp(value - highest) for value in likelihoods]
    return parts[right] / sum(parts)
