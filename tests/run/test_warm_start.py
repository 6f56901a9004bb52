"""Promise: a search may start where another ended, and takes over nothing that does not hold."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from command_line import run_cli, write_recipe

from evomerge.errors import RecipeError, RunError
from evomerge.evaluation.scores.outcome import Evaluated, TaskScore, Timing
from evomerge.run.beginning.creation import Beginning, begin, create, notes
from evomerge.run.loop.candidates import offspring, starting
from evomerge.run.preparation.prepare import PreparedSearch, prepare_search
from evomerge.run.preparation.search_file import read_search
from evomerge.store.database import RunStore

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

SEARCHED, CHOICE, ANSWER = 8, "tiny_choice", "tiny_answer"

POINTS = [tuple(0.1 * (number + gene % 3) for gene in range(12)) for number in range(3)]
"""Offspring of the earlier run: 12 genes, weight of 3 sources, 2 layer groups, mlp and others."""


def outcome(share: float) -> Evaluated:
    """All tasks solved to a share."""
    scores = tuple(
        TaskScore(task=task, score=share, items=(share,) * SEARCHED) for task in (CHOICE, ANSWER)
    )
    return Evaluated(scores=scores, timing=Timing(merge_s=1.0, forward_s=1.0, total_s=3.0))


def prepared(recipe: Path, *overrides: str) -> PreparedSearch:
    read = read_search(recipe, overrides)
    return prepare_search(read.recipe, read.root)[0]


def earlier_run(
    recipe: Path, folder: Path, *overrides: str, points: list[tuple[float, ...]] = POINTS
) -> Path:
    """The folder of a run with made up scores."""
    search = prepared(recipe, *overrides)
    folder.mkdir()
    starts = starting(search.genome)
    found = [
        offspring(search.genome.decode(point), number=n, generation=1, parents=(), point=point)
        for n, point in enumerate(points, start=len(starts))
    ]
    with closing(create(folder / "run.sqlite", search, begin(search))) as store:
        store.add_candidates([*starts, *found])
        for candidate in (*starts, *found):
            store.add_outcome(candidate.number, outcome(candidate.number / 100), 0.5)
    return folder


@pytest.fixture
def recipe(tmp_path: Path, family: Path) -> Path:
    return write_recipe(tmp_path, family, "CMA")


@pytest.fixture
def run(recipe: Path, tmp_path: Path) -> Path:
    return earlier_run(recipe, tmp_path / "earlier")


def begun(recipe: Path, run: Path, *overrides: str) -> Beginning:
    return begin(prepared(recipe, f"search.warm_start={run}", *overrides))


def told(beginning: Beginning) -> str:
    return "\n".join(f"{each.severity}: {each.message}" for each in beginning.findings)


def test_it_starts_around_the_mean_of_the_best(recipe: Path, run: Path) -> None:
    warm = begun(recipe, run).warm_start
    assert warm is not None
    assert warm.centre == pytest.approx([0.1, 0.2, 0.3] * 4)


def test_layers_that_share_a_gene_now_take_the_mean(recipe: Path, run: Path) -> None:
    warm = begun(recipe, run, "genome.layer_groups=1").warm_start
    assert warm is not None
    # Genes by source, group and component: (0.1, 0.2 | 0.3, 0.1), (0.2, 0.3 | 0.1, 0.2), ...
    assert warm.centre == pytest.approx([0.2, 0.15, 0.15, 0.25, 0.25, 0.2])


def test_layers_that_get_genes_of_their_own_begin_alike(recipe: Path, tmp_path: Path) -> None:
    points = [(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)]
    run = earlier_run(recipe, tmp_path / "coarse", "genome.layer_groups=1", points=points)
    warm = begun(recipe, run).warm_start
    assert warm is not None
    assert warm.centre == (0.1, 0.2, 0.1, 0.2, 0.3, 0.4, 0.3, 0.4, 0.5, 0.6, 0.5, 0.6)


def test_sources_are_found_by_what_they_are(recipe: Path, run: Path) -> None:
    text = recipe.read_text()
    (one, two) = (line for line in text.splitlines() if line.endswith(("/one", "/two")))
    swapped = text.replace(one, "-").replace(two, one).replace("-\n", f"{two}\n", 1)
    recipe.write_text(swapped)
    warm = begun(recipe, run).warm_start
    assert warm is not None
    assert warm.centre == pytest.approx(
        [0.2, 0.3, 0.1, 0.2, 0.1, 0.2, 0.3, 0.1, 0.3, 0.1, 0.2, 0.3]
    )


def test_scores_of_the_starting_candidates_are_taken_over(recipe: Path, run: Path) -> None:
    search = prepared(recipe, f"search.warm_start={run}")
    beginning = begin(search)
    kept = "note: 7 of 7 starting candidates keep the scores that they have there"
    assert kept in told(beginning)
    with closing(create(run.parent / "new.sqlite", search, beginning)) as store:
        entries = store.entries()
    found = [entry.outcome for entry in entries]
    assert [each.scores for each in found if isinstance(each, Evaluated)] == [
        outcome(number / 100).scores for number in range(7)
    ]
    # Nothing was done for them here, so they count for no hours.
    assert {each.timing.total_s for each in found if isinstance(each, Evaluated)} == {0}


def test_models_that_were_moved_are_the_same_models(family: Path, tmp_path: Path) -> None:
    def recipe_for(models: Path) -> Path:
        recipe = write_recipe(tmp_path, models)
        recipe.write_text(recipe.read_text().replace(f"{models}/tasks", f"{family}/tasks"))
        return recipe

    shutil.copytree(family, tmp_path / "own")
    run = earlier_run(recipe_for(tmp_path / "own"), tmp_path / "earlier")
    (tmp_path / "own").rename(tmp_path / "moved")
    recipe = recipe_for(tmp_path / "moved")
    warm = begun(recipe, run).warm_start
    assert warm is not None
    assert warm.centre == pytest.approx([0.1, 0.2, 0.3] * 4)
    assert warm.outcomes.keys() == {start.digest for start in starting(prepared(recipe).genome)}


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("evaluation.batch_tokens=1024", "batch_tokens"),
        ("evaluation.dtype=bfloat16", "dtype"),
        ("executor.threads=2", "threads"),
        ("evaluation.tasks=[{name: tiny_choice, num_fewshot: 1}, tiny_answer]", "tasks"),
        ("evaluation.tasks=[tiny_answer, tiny_cloze]", "tasks"),
        ("evaluation.items={search: 6, confirm: 2, held_out: 12}", "tasks"),
    ],
)
def test_scores_that_something_else_went_into_are_not_taken_over(
    recipe: Path, run: Path, override: str, what: str
) -> None:
    beginning = begun(recipe, run, override)
    assert beginning.warm_start is not None
    assert beginning.warm_start.outcomes == {}
    assert f"are scored again: {what} changed" in told(beginning)


def test_a_changed_package_or_tokenizer_changes_scores(recipe: Path, run: Path) -> None:
    with closing(RunStore.open_for_writing(run / "run.sqlite")) as store:
        scored_by = store.fact("scored_by")
        scored_by["versions"]["torch"] = "1.0"
        scored_by["tokenizer"] = "another"
        store.write_facts({"scored_by": scored_by})
    assert "are scored again: tokenizer, versions changed" in told(begun(recipe, run))


def refusal(recipe: Path, run: Path, *overrides: str) -> str:
    with pytest.raises((RecipeError, RunError)) as raised:
        begun(recipe, run, *overrides)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_held_out_items_that_chose_the_point_are_refused(recipe: Path, run: Path) -> None:
    message = refusal(recipe, run, "evaluation.items={search: 4, held_out: 12}")
    assert message == (
        f"8 held-out items of this search decided the course of {run}, so they cannot judge its "
        "winner; give the same evaluation.items as there, seed included"
    )


def test_so_are_those_that_chose_the_point_that_the_earlier_run_began_from(
    recipe: Path, run: Path
) -> None:
    middle = earlier_run(
        recipe,
        run.parent / "middle",
        f"search.warm_start={run}",
        "evaluation.tasks=[tiny_cloze]",
    )
    assert "decided the course of" in refusal(
        recipe, middle, "evaluation.items={search: 4, held_out: 12}"
    )


def test_search_items_that_were_held_out_are_worth_a_warning(recipe: Path, run: Path) -> None:
    beginning = begun(recipe, run, "evaluation.items={search: 12, held_out: 12}")
    assert (
        f"warning: 8 search items were held out in {run}: its winner and this one's cannot be "
        "compared on them"
    ) in told(beginning)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("genome.operator=ties", "has genome.operator task_arithmetic, and this search ties"),
        ("genome.ranges={weight: [0, 1]}", "has genome.ranges none, and this search {'weight'"),
        ("genome.components=[]", r"has genome.components \['mlp'\], and this search none"),
    ],
)
def test_other_genes_are_refused(recipe: Path, run: Path, change: str, difference: str) -> None:
    assert f"{run} {difference}".replace("\\", "") in refusal(recipe, run, change)


def test_another_base_and_other_sources_are_refused(recipe: Path, run: Path) -> None:
    text = recipe.read_text()
    recipe.write_text(text.replace("/two", "/three"))
    assert f"{run} lacks the source three; start from" in refusal(recipe, run)
    recipe.write_text("".join(x for x in text.splitlines(True) if not x.endswith("/two\n")))
    assert f"{run} also merges " in refusal(recipe, run)
    recipe.write_text(text.replace("/base\n", "/three\n", 1).replace("/base+", "/three+"))
    assert f"{run} has the base " in refusal(recipe, run)


def test_runs_with_nothing_to_start_from_are_refused(recipe: Path, tmp_path: Path) -> None:
    assert "holds no run" in refusal(recipe, tmp_path / "nowhere")
    empty = earlier_run(recipe, tmp_path / "empty", points=[])
    assert refusal(recipe, empty) == f"{empty} has no offspring yet that stands for a point"
    with closing(RunStore.open_for_writing(empty / "run.sqlite")) as store:
        store.write_facts({"choosing": None})
    assert "was made by an older evomerge" in refusal(recipe, empty)
    (tmp_path / "new").mkdir()
    RunStore.create(tmp_path / "new" / "run.sqlite").close()
    assert refusal(recipe, tmp_path / "new") == f"{tmp_path}/new was stopped before it began"


def test_a_strategy_without_a_centre_is_worth_a_note(recipe: Path, run: Path) -> None:
    assert f"note: Sobol does not start from a point, so {run} guides nothing" in told(
        begun(recipe, run, "search.strategy=Sobol")
    )


def test_a_run_that_began_from_another_needs_it_no_more(recipe: Path, run: Path) -> None:
    options = ("--set", f"search.warm_start={run}", "--set", "search.candidates=12")
    new = run.parent / "new"
    checked = run_cli("check", recipe, *options)
    assert (checked.code, f"proposals start around the elite mean of {run}" in checked.err) == (
        0,
        True,
    )
    first = run_cli("search", recipe, "--run", new, *options)
    assert first.code == 0, first.err
    shutil.rmtree(run)
    more = (*options[:2], "--set", "search.candidates=14")
    again = run_cli("search", recipe, "--run", new, *more)
    assert again.code == 0, again.err
    assert f"note: search.warm_start: proposals start around the elite mean of {run}" in again.err
    with closing(RunStore.open_for_reading(new / "run.sqlite")) as store:
        points = [e.candidate.genotype for e in store.entries() if e.candidate.genotype]
        assert [each.severity for each in notes(store)] == ["note"]
    middle = [sum(gene) / len(gene) for gene in zip(*points, strict=True)]
    assert middle == pytest.approx([0.1, 0.2, 0.3] * 4, abs=0.15)
    document = json.loads(run_cli("leaderboard", new, "--json").out)
    scores: dict[str, Any] = {row["name"]: row["search_score"] for row in document["candidates"]}
    assert scores["base"] == 0.0
    assert scores["uniform average"] == pytest.approx(0.04)
