"""The finish: the winner meets its rivals on items that the search has never seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evomerge.errors import RunError
from evomerge.evaluation.scores.outcome import Failed
from evomerge.evaluation.scores.statistics import PairedComparison, compare
from evomerge.executors.contract import evaluate
from evomerge.genome.baselines import UNIFORM_AVERAGE
from evomerge.reporting.forecast import LEAST_SHOWN
from evomerge.reporting.leaderboard import short_id
from evomerge.run.finish.finalists import add_elite_mean, add_elite_soup, best, confirm
from evomerge.run.loop.candidates import job_of
from evomerge.store.records import scores_of_sources

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.evaluation.scores.objective import Objective
    from evomerge.evaluation.scores.outcome import TaskScore
    from evomerge.executors.contract import Executor
    from evomerge.genome.genome import Genome
    from evomerge.run.loop.loop import Progress
    from evomerge.store.database import RunStore
    from evomerge.store.records import Entry

HELD_OUT = "held-out items"

MERGES = ("offspring", "baseline")
"""Kinds that may win."""


def finish_search(
    store: RunStore,
    executor: Executor,
    objective: Objective,
    progress: Progress,
    genome: Genome,
    *,
    soup: bool = False,
) -> None:
    """Confirm the best candidates, score the finalists on held-out items, store the verdict.

    The winner is the merge with the best score on all search and confirm items, or in doubt the
    mean of the best; see `_winner`. It meets the source with the best score and the uniform
    average, so that held-out items choose none of them. Base, sources and starting candidates are
    scored as well, for the reader.

    Args:
        store: The run's store.
        executor: Scores candidates.
        objective: What is maximised.
        progress: Is told what is done.
        genome: The genome of the points.
        soup: Whether the greedy soup of the best is tried in place of their mean.

    Raises:
        NoCandidateError: No merge or no source could be evaluated.
        RunError: A finalist failed on the held-out items.
    """
    objective = objective.measured_by(scores_of_sources(store.entries()))
    confirm(store, executor, objective, progress)
    kept = None
    if soup:
        kept = add_elite_soup(store, executor, objective, genome)
    else:
        add_elite_mean(store, executor, objective, genome)
    confirmed = confirm(store, executor, objective, progress)
    merges = _merges(confirmed)
    if soup:  # what was tried for it on the way and not kept is out
        merges = [e for e in merges if e.candidate.number >= 0 or e.candidate.digest == kept]
    winner = _winner(merges, objective)
    rivals = [best(confirmed, ("source",)), *_uniform_average(confirmed, winner)]
    shown = [entry for entry in confirmed if entry.candidate.kind != "offspring"]
    finalists = {e.candidate.number: e for e in (winner, *rivals, *shown)}
    missing = [entry for entry in finalists.values() if not entry.held_out]
    _score_held_out(store, executor, missing, progress)
    scored = {entry.candidate.number: entry for entry in store.entries()}
    winner, *rivals = (scored[entry.candidate.number] for entry in (winner, *rivals))
    verdict = verdict_on(winner, rivals, objective, best(merges, MERGES))
    store.write_facts({"verdict": verdict, "state": "finished"})


def _merges(confirmed: Sequence[Entry]) -> list[Entry]:
    """Those that are merges; a strategy may ask for a source by its number, which is none."""
    models = {e.candidate.digest for e in confirmed if e.candidate.kind not in MERGES}
    return [entry for entry in confirmed if entry.candidate.digest not in models]


def _winner(confirmed: Sequence[Entry], objective: Objective) -> Entry:
    """The best merge; but of offspring the best one only if it beats their mean beyond doubt.

    The best of many was picked by these very items, and was lucky on them too; the mean was not,
    and neither were the baselines. On planted landscapes this choice is better on other items by
    1.2 points (benchmarks/LOG.md).
    """
    first = best(confirmed, MERGES)
    means = [entry for entry in confirmed if entry.candidate.number < 0]
    if not means or first.candidate.kind == "baseline":
        return first
    # A search that went on after an end has one more, with a lower number.
    mean = min(means, key=lambda entry: entry.candidate.number)
    if compare_scores(first.whole, mean.whole, objective).verdict == "better":
        return first
    return best(
        [each for each in confirmed if each.candidate.kind == "baseline" or each is mean], MERGES
    )


def compare_scores(
    first: Sequence[TaskScore],
    second: Sequence[TaskScore],
    objective: Objective,
    comparisons: int = 1,
) -> PairedComparison:
    """Compare two candidates' scores on the same items; differences above 0 favour the first."""
    return compare(
        {score.task: score.items for score in first},
        {score.task: score.items for score in second},
        objective.of_means,
        comparisons=comparisons,
    )


def _uniform_average(entries: Sequence[Entry], winner: Entry) -> list[Entry]:
    """The uniform average, unless it has failed or won."""
    return [
        entry
        for entry in entries
        if entry.candidate.name == UNIFORM_AVERAGE
        and entry.fitness is not None
        and entry.candidate.number != winner.candidate.number
    ]


def _score_held_out(
    store: RunStore, executor: Executor, entries: Sequence[Entry], progress: Progress
) -> None:
    jobs = [job_of(entry.candidate, "held_out") for entry in entries]
    progress.compared(0, len(jobs), HELD_OUT)
    for done, (job, outcome) in enumerate(evaluate(executor, jobs), start=1):
        if isinstance(outcome, Failed):
            raise RunError(f"candidate {job.number} on held-out items: {outcome.reason}")
        store.add_scores(job.number, "held_out", outcome.scores)
        progress.compared(done, len(jobs), HELD_OUT)


def verdict_on(
    winner: Entry, rivals: Sequence[Entry], objective: Objective, first: Entry
) -> dict[str, Any]:
    """How a winner compares with its rivals on held-out items.

    Args:
        winner: The winner.
        rivals: The best source, and perhaps others.
        objective: What is compared.
        first: The candidate with the best score on the items that chose; the winner, or one that
            was passed over for it.
    """
    results = [
        compare_scores(winner.held_out, rival.held_out, objective, comparisons=len(rivals))
        for rival in rivals
    ]
    comparisons = [
        {
            "rival": rival.candidate.digest,
            "name": rival.candidate.name,
            "difference": result.difference,
            "interval": [result.low, result.high],
            "p_value": result.p_value,
            "verdict": result.verdict,
        }
        for rival, result in zip(rivals, results, strict=True)
    ]
    of_source = comparisons[0]
    # Of many candidates the best one was lucky too; held-out items do not share its luck.
    luck = objective.fitness(winner.whole) - objective.fitness(winner.held_out)
    luck_in_words = f"{abs(luck):.3f} {'higher' if luck >= 0 else 'lower'}"
    lines = [
        *_passed_over(first, winner, objective),
        *(
            sentence("The winner", _named(rival), result, objective)
            for rival, result in zip(rivals, results, strict=True)
        ),
        f"Its search score was {luck_in_words} than its held-out score.",
        *(
            f"{score.truncated:.0%} of its answers to {score.task} reached the limit of tokens."
            for score in winner.held_out
            if score.truncated
        ),
    ]
    return {
        "winner": winner.candidate.digest,
        "best_source": of_source["rival"],
        "difference": of_source["difference"],
        "interval": of_source["interval"],
        "p_value": of_source["p_value"],
        "items": results[0].items,
        "comparisons": comparisons,
        "search_minus_held_out": luck,
        "text": "\n".join(lines),
    }


def _passed_over(first: Entry, winner: Entry, objective: Objective) -> list[str]:
    if first.candidate.digest == winner.candidate.digest:
        return []
    lead = objective.fitness(first.whole) - objective.fitness(winner.whole)
    name = short_id(first.candidate.digest)
    sentence = (
        f"The winner is the {winner.candidate.name}; candidate {name} scored {margin(lead)} more "
        "on the search items, which may be luck."
    )
    return [sentence]


def margin(lead: float) -> str:
    """A lead in words; of equal scores the surer one leads, by less than can be shown."""
    return f"{lead:.3f}" if lead >= LEAST_SHOWN else "less than 0.001"


def _named(rival: Entry) -> str:
    name = rival.candidate.name
    return f"the best source ({name})" if rival.candidate.kind == "source" else f"the {name}"


def sentence(who: str, what: str, result: PairedComparison, objective: Objective) -> str:
    """A comparison on held-out items in words."""
    word = "from" if result.verdict == "not distinguishable" else "than"
    measured = "" if objective.name == "mean" else f"{objective.name} "
    return (
        f"{who} is {result.verdict} {word} {what} on {result.items} held-out items: "
        f"{measured}{result.difference:+.3f}, 95 % interval "
        f"[{result.low:+.3f}, {result.high:+.3f}], p = {result.p_value:.2g}."
    )
