"""Promise: a score here is the score that lm-eval gives for the same weights and items."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any

import pytest
import torch

from evomerge.errors import EvaluationError
from evomerge.evaluation.backends.hf import HfBackend
from evomerge.evaluation.evaluator import ResidentEvaluator
from evomerge.evaluation.scores.objective import Aim
from evomerge.evaluation.scores.racing import Race
from evomerge.evaluation.tasks.items import TaskItems
from evomerge.evaluation.tasks.lm_eval_tasks import HarnessTask, TaskSpec
from evomerge.live_model import load_model

if TYPE_CHECKING:
    from pathlib import Path

TASKS = ("tiny_choice", "tiny_answer", "tiny_cloze", "tiny_text")
SEARCH, HELD_OUT = (7, 2, 31, 5, 12, 0), (1, 3, 4, 39)


@pytest.fixture(scope="module")
def loaded(family: Path) -> tuple[Any, Any]:
    return load_model(family / "one", torch.float32, torch.device("cpu"))


@pytest.fixture(scope="module")
def specs(family: Path) -> list[TaskSpec]:
    return [TaskSpec(name=name, include_path=str(family / "tasks")) for name in TASKS]


def make_evaluator(
    loaded: tuple[Any, Any], specs: list[TaskSpec], batch_tokens: int = 512
) -> ResidentEvaluator:
    items = [TaskItems(task=spec.name, search=SEARCH, held_out=HELD_OUT) for spec in specs]
    return ResidentEvaluator(HfBackend(*loaded, batch_tokens), specs, items)


def lm_eval_results(folder: Path, tasks: Path, items: tuple[int, ...]) -> dict[str, Any]:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    with contextlib.redirect_stderr(io.StringIO()):
        answer = simple_evaluate(
            model="hf",
            model_args=f"pretrained={folder},dtype=float32",
            tasks=list(TASKS),
            task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
            samples={task: sorted(items) for task in TASKS},
            batch_size=4,
            bootstrap_iters=0,
            log_samples=True,
            device="cpu",
        )
    return dict(answer)


METRICS = {
    "tiny_choice": "acc,none",
    "tiny_answer": "exact_match,none",
    "tiny_cloze": "acc,none",
    "tiny_text": "byte_perplexity,none",
}


@pytest.mark.slow
@pytest.mark.parametrize(("split", "items"), [("search", SEARCH), ("held_out", HELD_OUT)])
def test_scores_of_all_four_request_types_equal_those_of_lm_eval(
    family: Path, loaded: tuple[Any, Any], specs: list[TaskSpec], split: Any, items: Any
) -> None:
    expected = lm_eval_results(family / "one", family / "tasks", items)["results"]
    for score in make_evaluator(loaded, specs).evaluate(split):
        wanted = expected[score.task][METRICS[score.task]]
        # The last digits of a log-likelihood depend on how requests share a batch.
        exact = score.task != "tiny_text"
        assert score.score == (wanted if exact else pytest.approx(wanted, rel=1e-5))


def test_item_scores_follow_the_frozen_order_of_the_split(
    loaded: tuple[Any, Any], specs: list[TaskSpec]
) -> None:
    choice = specs[0]
    forward = TaskItems(task=choice.name, search=SEARCH, held_out=HELD_OUT)
    backward = TaskItems(task=choice.name, search=SEARCH[::-1], held_out=HELD_OUT)
    first, second = (
        ResidentEvaluator(HfBackend(*loaded, 512), [choice], [items]).evaluate("search")[0]
        for items in (forward, backward)
    )
    assert first.items == second.items[::-1]
    assert len(set(first.items)) == 2  # both right and wrong answers, or the order shows nothing


def test_the_size_of_batches_does_not_change_which_answers_are_right(
    loaded: tuple[Any, Any], specs: list[TaskSpec]
) -> None:
    small, large = (
        make_evaluator(loaded, specs[:3], tokens).evaluate("search") for tokens in (40, 4096)
    )
    assert [(s.score, s.items) for s in small] == [(s.score, s.items) for s in large]


def test_the_same_weights_give_the_same_scores_bit_for_bit(
    loaded: tuple[Any, Any], specs: list[TaskSpec]
) -> None:
    evaluator = make_evaluator(loaded, specs)
    assert evaluator.evaluate("search") == evaluator.evaluate("search")


def test_new_weights_are_scored_without_building_anything_again(
    family: Path, specs: list[TaskSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = load_model(family / "one", torch.float32, torch.device("cpu"))
    evaluator = make_evaluator((model, tokenizer), specs)
    before = evaluator.evaluate("search")
    monkeypatch.setattr(HarnessTask, "build", None)
    other, _ = load_model(family / "two", torch.float32, torch.device("cpu"))
    model.load_state_dict(other.state_dict())
    after = evaluator.evaluate("search")
    assert before != after
    assert after == make_fresh(other, tokenizer, specs, monkeypatch)


def make_fresh(
    model: Any, tokenizer: Any, specs: list[TaskSpec], monkeypatch: pytest.MonkeyPatch
) -> Any:
    monkeypatch.undo()
    return make_evaluator((model, tokenizer), specs).evaluate("search")


@pytest.mark.parametrize("task", range(len(TASKS)))
def test_a_model_that_overflows_is_refused_whatever_it_is_asked(
    family: Path, specs: list[TaskSpec], task: int
) -> None:
    model, tokenizer = load_model(family / "one", torch.float32, torch.device("cpu"))
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.inf)
    with pytest.raises(EvaluationError, match="are NaN or infinite"):
        make_evaluator((model, tokenizer), [specs[task]]).evaluate("search")


def test_answers_that_reach_the_limit_of_tokens_are_counted(
    loaded: tuple[Any, Any], family: Path
) -> None:
    def truncated(**settings: Any) -> float | None:
        spec = TaskSpec(
            name="tiny_answer", include_path=str(family / "tasks"), generation=settings
        )
        return make_evaluator(loaded, [spec]).evaluate("search")[0].truncated

    any_character = [chr(code) for code in (*range(1, 400), 0xFFFD)]
    assert truncated(until=["no such text"], max_gen_toks=3) == 1
    assert truncated(until=any_character, max_gen_toks=3) == 0


def test_what_generates_nothing_cuts_nothing_off(
    loaded: tuple[Any, Any], specs: list[TaskSpec]
) -> None:
    (score,) = make_evaluator(loaded, specs[:1]).evaluate("search")
    assert score.truncated is None


RUNGS = (0.34, 0.67)


def make_racing(loaded: tuple[Any, Any], specs: list[TaskSpec]) -> ResidentEvaluator:
    items = [TaskItems(task=spec.name, search=ITEMS, held_out=HELD_OUT) for spec in specs]
    return ResidentEvaluator(HfBackend(*loaded, 512), specs, items, RUNGS)


ITEMS = (*SEARCH, *range(13, 30))


def race_to(fitness: float, specs: list[TaskSpec]) -> Race:
    tasks = [spec.name for spec in specs]
    return Race(
        to_beat=fitness,
        aims=(Aim(shares=dict.fromkeys(tasks, 1 / len(tasks))),),
        expected=dict.fromkeys(tasks, [0.5] * len(ITEMS)),
        ranges=dict.fromkeys(tasks, 1.0),
        alpha=0.05,
        looks=len(RUNGS),
    )


def test_items_that_are_scored_rung_by_rung_score_the_same(
    loaded: tuple[Any, Any], specs: list[TaskSpec]
) -> None:
    items = [TaskItems(task=spec.name, search=ITEMS, held_out=HELD_OUT) for spec in specs]
    whole = ResidentEvaluator(HfBackend(*loaded, 512), specs, items).evaluate("search")
    racing = make_racing(loaded, specs)
    for race in (None, race_to(-1e9, specs)):
        found = racing.evaluate("search", race)
        assert racing.share("search", found) == 1
        for score, expected in zip(found, whole, strict=True):
            assert score.items == pytest.approx(expected.items, rel=1e-5)
            assert score.score == pytest.approx(expected.score, rel=1e-5)


def test_a_race_that_is_lost_ends_after_a_rung(
    loaded: tuple[Any, Any], specs: list[TaskSpec]
) -> None:
    racing = make_racing(loaded, specs[:3])
    whole = racing.evaluate("search")
    passed = racing.forward_s
    found = racing.evaluate("search", race_to(2.0, specs[:3]))
    assert racing.share("search", found) == 8 / 23
    assert [score.items for score in found] == [score.items[:8] for score in whole]
    assert racing.forward_s < passed


def test_a_perplexity_item_is_smaller_when_the_model_is_better(
    loaded: tuple[Any, Any], specs: list[TaskSpec]
) -> None:
    (score,) = make_evaluator(loaded, specs[3:]).evaluate("search")
    bits = list(score.items)
    assert all(item > 0 for item in bits)
    assert min(bits) < torch.log(torch.tensor(score.score)) < max(bits)


def test_how_sure_a_model_is_of_the_right_choice_is_told_without_another_pass(
    loaded: tuple[Any, Any], specs: list[TaskSpec]
) -> None:
    choice = next(spec for spec in specs if spec.name == "tiny_choice")
    evaluator = make_evaluator(loaded, [choice])
    (score,) = evaluator.evaluate("search")
    task = evaluator._prepared("search").tasks[0]
    expected = []
    for _, requests in task._of_item:
        likelihoods = torch.tensor([request.resps[0][0] for request in requests])
        right = task._task.doc_to_target(requests[0].doc)
        expected.append(float(likelihoods.double().softmax(0)[right]))
    assert score.sureness == pytest.approx(sum(expected) / len(expected), rel=1e-6)
    assert make_evaluator(loaded, specs[3:]).evaluate("search")[0].sureness is None
