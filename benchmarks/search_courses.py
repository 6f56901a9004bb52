"""Searches of a planted landscape: ours, step for step as `run/` makes them, and the peers'.

Each gives a course: what was scored, in order, and which candidate it would choose if its budget
ended anywhere on the way.
"""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from landscape import SEARCH_ITEMS, Array, Landscape

from evomerge.evaluation.scores.objective import Objective
from evomerge.evaluation.scores.outcome import TaskScore
from evomerge.evaluation.scores.racing import TRUSTED, Race
from evomerge.genome.steps import scales
from evomerge.recipe.search import Racing
from evomerge.recipe.search import Strategy as StrategyRecipe
from evomerge.run.finish.finalists import FINALISTS
from evomerge.search.contract import Finished, Result, StrategySettings

if TYPE_CHECKING:
    from evomerge.search.contract import Strategy

TASK = "planted"
CERTAIN = 1.96
"""Standard errors of a paired difference that are beyond doubt."""
OBJECTIVE = Objective(weights={TASK: 1.0}, higher_is_better={TASK: True})


@dataclass
class Course:
    """What a search scored, in order.

    Attributes:
        points: The candidates.
        scores: Their scores on the search items, estimated for those that were stopped.
        spent: Item evaluations up to and including each candidate.
        whole: Whether it was scored on all search items.
    """

    points: list[Array] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    spent: list[int] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)

    def add(self, point: Array, score: float, items: int = SEARCH_ITEMS) -> None:
        """Append a candidate that cost so many item evaluations."""
        self.points.append(point)
        self.scores.append(score)
        self.spent.append((self.spent[-1] if self.spent else 0) + items)
        self.whole.append(items == SEARCH_ITEMS)

    def ranked(self, budget: int, first: int = 0) -> list[int]:
        """Candidates scored in full within a budget, from number `first` on, the best first."""
        known = [
            i for i in range(first, len(self.points)) if self.whole[i] and self.spent[i] <= budget
        ]
        return sorted(known, key=lambda i: -self.scores[i])


@dataclass(frozen=True, kw_only=True)
class Ours:
    """How our searches are made; the defaults are those of recipes.

    Attributes:
        generation: Candidates asked at a time.
        step: Standard deviation of the first points; None for the strategy's own choice.
        racing: Whether candidates are stopped.
        elites: How many of the best offspring the elite mean is of; 0 for no elite mean.
        confirm: Confirm items that the finalists are scored on.
        doubt: Whether the elite mean is chosen unless the best is better than it beyond doubt: the
            best was picked by its score on the search items, and the mean was not.
        steps: The power of the curvatures that GA's steps follow.
        noise: Standard deviation of the logarithm of the curvatures as they are known.
        soup: Whether the greedy soup of the elites is tried in place of their mean: from the best
            on, each is added to the mean of those before it unless that scores less on the search
            items (Wortsman et al., "Model soups", 2022, recipe 1).
    """

    generation: int = StrategyRecipe().generation
    step: float | None = None
    racing: bool = True
    elites: int = FINALISTS
    confirm: int = 0
    doubt: bool = True
    steps: float = 0.0
    noise: float = 0.0
    soup: bool = False

    def settings(self, landscape: Landscape, seed: int) -> StrategySettings:
        """What a strategy is built from."""
        return StrategySettings(
            dimension=landscape.setting.dimension,
            generation=self.generation,
            seed=seed,
            step=self.step,
            genes=landscape.genes,
            scales=self.scales(landscape, seed) if self.steps else (),
        )

    def scales(self, landscape: Landscape, seed: int) -> tuple[float, ...]:
        """What is known of how much depends on each weight, as a strategy is told it."""
        found = landscape.curvature
        rng = np.random.default_rng([seed, len(found)])
        found *= np.exp(self.noise * rng.normal(size=len(found)))
        return scales((found / found.mean()).tolist(), self.steps)

    def kept_for_the_end(self, starts: int) -> int:
        """Item evaluations that the finish takes."""
        tried = self.elites - 1 if self.soup else bool(self.elites)
        return tried * SEARCH_ITEMS + self.confirm * (FINALISTS + starts + 1)

    def search(self, landscape: Landscape, strategy: Strategy, budget: int) -> Course:
        """Search as `SearchLoop` does, until the budget of item evaluations is spent."""
        course, known = self.begin(landscape)
        self.follow(landscape, strategy, course, known, budget)
        return course

    def begin(self, landscape: Landscape) -> tuple[Course, list[Array]]:
        """Score the starting candidates; the course, and the items of each."""
        course, starts = Course(), landscape.starting_points()
        known = list(landscape.search(starts))
        for point, items in zip(starts, known, strict=True):
            course.add(point, float(items.mean()))
        return course, known

    def follow(
        self,
        landscape: Landscape,
        strategy: Strategy,
        course: Course,
        known: list[Array],
        budget: int,
    ) -> None:
        """Score what a strategy proposes, until the budget is spent or it has nothing left."""
        budget -= self.kept_for_the_end(len(landscape.starting_points()))
        while (count := min((budget - course.spent[-1]) // SEARCH_ITEMS, self.generation)) > 0:
            try:
                points = np.array(strategy.ask(count))
            except Finished:
                break
            race = _race(known) if self.racing else None
            results = []
            for point, items in zip(points, landscape.search(points), strict=True):
                score, cost = _raced(items, race)
                course.add(point, score, cost)
                if cost == SEARCH_ITEMS:
                    known.append(items)
                told = tuple(items) if cost == SEARCH_ITEMS else ()
                results.append(Result(fitness=score, scores=(score,), items=told))
            strategy.tell(results)

    def choose(self, course: Course, landscape: Landscape, budget: int) -> Array:
        """Choose as `finish_search` does."""
        starts = len(landscape.starting_points())
        budget -= self.kept_for_the_end(starts)
        elites = course.ranked(budget, first=starts)[: self.elites]
        finalists = [course.points[i] for i in course.ranked(budget)[:FINALISTS]]
        if has_mean := len(elites) > 1:
            points = [course.points[i] for i in elites]
            finalists.append(greedy_soup(points, landscape) if self.soup else mean_of(points))
        items = landscape.search(np.array(finalists))
        if self.confirm:
            items = np.hstack([items, landscape.confirm(np.array(finalists), self.confirm)])
        best = int(items.mean(axis=1).argmax())
        lead = items[best] - items[-1]
        if self.doubt and has_mean and lead.mean() <= CERTAIN * lead.std() / len(lead) ** 0.5:
            return finalists[-1]
        return finalists[best]


def mean_of(points: list[Array]) -> Array:
    """The elite mean."""
    mean: Array = np.mean(points, axis=0)
    return mean


def greedy_soup(points: list[Array], landscape: Landscape) -> Array:
    """The mean of those of some points, the best first, that do not lower its search score."""
    soup = points[:1]
    score = landscape.search(points[0][None]).mean()
    for point in points[1:]:
        found = landscape.search(mean_of([*soup, point])[None]).mean()
        if found >= score:
            soup, score = [*soup, point], found
    return mean_of(soup)


def _race(known: list[Array]) -> Race:
    """What a generation has to beat; see `run.course.Course.race`."""
    ranked = sorted(known, key=lambda items: -items.mean())
    return Race(
        to_beat=float(ranked[0].mean()),
        aims=OBJECTIVE.aims(),
        expected={TASK: np.mean(ranked[:TRUSTED], axis=0).tolist()},
        ranges={TASK: 1.0},
        alpha=Racing().alpha,
        looks=len(Racing().rungs),
    )


def _raced(items: Array, race: Race | None) -> tuple[float, int]:
    """The score that is told of a candidate, and the items that it took."""
    for rung in Racing().rungs if race else ():
        seen = items[: math.ceil(rung * SEARCH_ITEMS)]
        score = TaskScore(task=TASK, score=float(seen.mean()), items=tuple(seen))
        lost = race.stopped([score]) if race else None
        if lost is not None:
            return lost[0].score, len(seen)
    return float(items.mean()), SEARCH_ITEMS


def best_so_far(course: Course, budget: int) -> Array:
    """What the peers choose: the first candidate with the best score on the search items."""
    return course.points[course.ranked(budget)[0]]


def mergekit_evolve(landscape: Landscape, seed: int, budget: int) -> Course:
    """Search as mergekit-evolve does.

    CMA-ES of `cma` with its defaults in the space of the weights, from the uniform average with a
    step of 1/6 and without bounds; negative weights count as positive. `cma.fmin` ends by scoring
    the mean of the last distribution.
    """
    import cma

    setting, course = landscape.setting, Course()
    start = [1 / setting.sources] * setting.dimension
    options = {"seed": seed + 1, "verbose": -9, "verb_log": 0}
    candidates = budget // SEARCH_ITEMS - 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = cma.CMAEvolutionStrategy(start, 1 / 6, options)
        while len(course.points) < candidates and not optimizer.stop():
            asked = optimizer.ask()
            points = np.abs(asked)[: candidates - len(course.points)]
            scores = landscape.search(points).mean(axis=1).tolist()
            for point, score in zip(points, scores, strict=True):
                course.add(point, score)
            if len(points) == len(asked):
                optimizer.tell(asked, [-score for score in scores])
        mean = np.abs(optimizer.result.xfavorite)
    course.add(mean, float(landscape.search(mean[None]).mean()))
    return course


def mergenetic(
    landscape: Landscape, seed: int, budget: int, *, population: int, objectives: int
) -> Course:
    """Search as mergenetic does: GA of pymoo, or NSGA-II where there are two objectives.

    Populations start at random in the cube; simulated binary crossover, polynomial mutation and
    no duplicates, all with the defaults of pymoo. For two objectives the items are dealt to two
    tasks, and the candidate with the best mean is chosen.
    """
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.algorithms.soo.nonconvex.ga import GA
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM

    course, candidates = Course(), budget // SEARCH_ITEMS
    algorithm: Any = NSGA2(pop_size=population, eliminate_duplicates=True)
    if objectives == 1:
        algorithm = GA(pop_size=population, crossover=SBX(), mutation=PM())
    problem = Problem(n_var=landscape.setting.dimension, n_obj=objectives, xl=0.0, xu=1.0)
    algorithm.setup(problem, termination=("n_gen", 10**6), seed=seed, verbose=False)
    while len(course.points) < candidates:
        asked = algorithm.ask()
        points = asked.get("X")
        items = landscape.search(points)
        for point, score in itertools.islice(
            zip(points, items.mean(axis=1).tolist(), strict=True),
            candidates - len(course.points),
        ):
            course.add(point, score)
        tasks = items.reshape(len(items), objectives, -1).mean(axis=2)
        asked.set("F", -tasks)
        algorithm.tell(infills=asked)
    return course
