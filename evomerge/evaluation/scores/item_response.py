"""Item response theory: scores on all items told from some of them, as MERGE3 does.

The two-parameter model (Reckase, "Multidimensional Item Response Theory", 2009, chapter 4) gives a
model of ability `theta` the chance `sigma(a . theta - b)` to solve an item of slopes `a` and
difficulty `b`. p-IRT (Polo et al., "tinyBenchmarks", 2024) fits the ability to the items seen and
predicts the others. mp-IRT and gmp-IRT (Mencattini et al., "MERGE3", 2025) take a merged model's
ability for a linear combination of its sources' and fit its weights. They are biased as far as the
predictions are off; the difference estimator, given the same predictions, is not.

For comparison only: races use `racing.estimate`. Departures from the papers: items have equal
weights, since those seen are a random sample and not chosen anchors; item parameters come from the
run's own candidates, few as they are; weak Gaussian priors keep every maximum finite and unique.

Axes of arrays: `M` models, `N` items of a task, `D` dimensions of ability, `K` sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from evomerge.errors import EvaluationError
from evomerge.evaluation.scores.logistic import logistic_modes, sigmoid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.evaluation.scores.statistics import Array

    Scores = Sequence[Sequence[float]]

ABILITY, ITEM, MIXTURE = 1.0, 0.1, 0.01
"""Precisions of the priors: of abilities, of item parameters, of weights around 1 / K."""

FOLDS = 5
"""Parts of the items seen, of which each is predicted from the others."""

ROUNDS, TOLERANCE = 200, 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Items:
    """Parameters of N items.

    Attributes:
        slopes: How much each dimension of ability helps, shape `(N, D)`.
        difficulties: Shape `(N,)`.
    """

    slopes: Array
    difficulties: Array

    def __getitem__(self, which: slice | npt.NDArray[np.intp]) -> Items:
        """Some of the items, in this order."""
        return Items(slopes=self.slopes[which], difficulties=self.difficulties[which])

    def chances(self, ability: Array) -> Array:
        """Chance of each item to be solved, shape `(N,)`, by a model of ability `(D,)`."""
        return sigmoid(self.slopes @ ability - self.difficulties)


def fit_items(answers: Array, dimensions: int) -> Items:
    """Fit slopes, difficulties and abilities in turn, up to their joint posterior mode.

    Args:
        answers: Scores of models on items, in [0, 1], shape `(M, N)`.
        dimensions: D; those beyond the smaller of M and N stay unused.

    Raises:
        EvaluationError: A score lies outside [0, 1], or there is none.
    """
    known = _checked(answers)
    left, sizes, right = np.linalg.svd(known - known.mean(axis=0), full_matrices=False)
    # A singular vector's sign is arbitrary; this one does not hang on the order of the models.
    turned = left * sizes * np.where(right.sum(axis=1) < 0, -1.0, 1.0)
    start = turned[:, :dimensions] * np.sqrt(len(known)) / max(sizes[0], 1e-9)
    abilities = np.pad(start, ((0, 0), (0, dimensions - start.shape[1])))
    parameters = np.zeros((known.shape[1], dimensions + 1))
    for _ in range(ROUNDS):
        before = parameters
        design = np.column_stack([abilities, -np.ones(len(known))])
        parameters = logistic_modes(design, known.T, np.zeros(len(known)), ITEM, parameters)
        slopes, difficulties = parameters[:, :-1], parameters[:, -1]
        abilities = logistic_modes(slopes, known, -difficulties, ABILITY, abilities)
        if np.abs(parameters - before).max() < TOLERANCE:
            break
    return Items(slopes=parameters[:, :-1], difficulties=parameters[:, -1])


def fit_ability(items: Items, answers: Array) -> Array:
    """Fit a model's ability, shape `(D,)`, to its scores on these items, shape `(N,)`."""
    known, start = _checked(answers)[None], np.zeros((1, items.slopes.shape[1]))
    return logistic_modes(items.slopes, known, -items.difficulties, ABILITY, start).ravel()


def fit_mixture(items: Items, answers: Array, sources: Array) -> Array:
    """Fit the weights of the sources' abilities in a merged model's: MERGE3's `xi`.

    Args:
        items: The items seen.
        answers: The merged model's scores on them, shape `(N,)`.
        sources: Abilities of the sources, shape `(K, D)`.

    Returns:
        Weights, shape `(K,)`, of any sign and sum; 1 / K where the items seen say nothing.
    """
    start = np.full(len(sources), 1 / len(sources))
    design = items.slopes @ sources.T
    offset = design @ start - items.difficulties
    known, beside = _checked(answers)[None], np.zeros((1, len(sources)))
    return start + logistic_modes(design, known, offset, MIXTURE, beside).ravel()


def predict(seen: Scores, items: Sequence[Items], sources: Array | None) -> list[Array]:
    """Predict a candidate's score on every item of every task.

    Args:
        seen: Its scores on the first items of each task.
        items: All items of each task, those seen first.
        sources: Abilities of the sources, shape `(K, D)`, of which its own is a combination; None
            if it may have any ability.

    Returns:
        Chances of each task's items, shape `(N,)` each.
    """
    first = [task[: len(scores)] for scores, task in zip(seen, items, strict=True)]
    known = Items(
        slopes=np.concatenate([task.slopes for task in first]),
        difficulties=np.concatenate([task.difficulties for task in first]),
    )
    answers = np.concatenate([np.asarray(scores, dtype=np.float64) for scores in seen])
    if sources is None:
        ability = fit_ability(known, answers)
    else:
        ability = fit_mixture(known, answers, sources) @ sources
    return [task.chances(ability) for task in items]


def mp_irt(seen: Scores, items: Sequence[Items], sources: Array | None) -> list[float]:
    """Each task's mean score: what was seen, and what `predict` says of the other items.

    p-IRT if `sources` is None.
    """
    predicted = predict(seen, items, sources)
    return [
        float((np.sum(scores) + chances[len(scores) :].sum()) / len(chances))
        for scores, chances in zip(seen, predicted, strict=True)
    ]


def gmp_irt(
    seen: Scores, items: Sequence[Items], sources: Array | None, *, c: float = 0.5
) -> list[float]:
    """Each task's mean score: the mean of what was seen with weight `c`, else mp-IRT."""
    found = mp_irt(seen, items, sources)
    return [c * float(np.mean(s)) + (1 - c) * f for s, f in zip(seen, found, strict=True)]


def mp_irt_difference(seen: Scores, items: Sequence[Items], sources: Array | None) -> list[float]:
    """Each task's mean score by the difference estimator, expecting what `predict` says.

    Predictions fitted to the very items that correct them would leave a bias. So one part of the
    items seen is left out at a time: the predictions know nothing of it, it is a random sample of
    the items left, and corrects their mean without bias. The parts' estimates are averaged.

    Raises:
        EvaluationError: Less than 2 items of a task have been seen.
    """
    fewest = min(len(scores) for scores in seen)
    if fewest < 2:
        raise EvaluationError(f"{fewest} items of a task have been seen; at least 2 are needed")
    folds = min(FOLDS, fewest)
    found = np.zeros((folds, len(items)))
    for fold in range(folds):
        kept, out, tasks = [], [], []
        for scores, task in zip(seen, items, strict=True):
            values, places = np.asarray(scores), np.arange(len(task.difficulties))
            # 0: seen and kept, 1: seen and left out, 2: not seen.
            parts = np.where(places < len(values), places % folds == fold, 2)
            kept.append(values[parts[: len(values)] == 0])
            out.append(values[parts[: len(values)] == 1])
            tasks.append(task[np.argsort(parts, kind="stable")])
        for column, chances in enumerate(predict(kept, tasks, sources)):
            left, sample = chances[len(kept[column]) :], out[column]
            mean = left.mean() + (sample - left[: len(sample)]).mean()
            found[fold, column] = (kept[column].sum() + len(left) * mean) / len(chances)
    return [float(score) for score in found.mean(axis=0)]


def _checked(answers: Array) -> Array:
    known = np.asarray(answers, dtype=np.float64)
    wrong = int((~((known >= 0) & (known <= 1))).sum())
    if wrong or not known.size:
        found = f"{wrong} of {known.size} do not" if wrong else "there are none"
        raise EvaluationError(f"item response theory: scores must lie in [0, 1]; {found}")
    return known
