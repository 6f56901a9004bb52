"""Promise: a score by vLLM is the score by transformers, whatever was merged into the engine."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tiny_family import build_family, build_tasks

from evomerge.errors import EvaluationError
from evomerge.evaluation.backends.hf import HfBackend
from evomerge.evaluation.passes.tokens import Continuation, PreparedRequest, Prompt, Truncated
from evomerge.evaluation.scores.outcome import Evaluated, Failed
from evomerge.evaluation.tasks.items import TaskItems
from evomerge.evaluation.tasks.lm_eval_tasks import TaskSpec
from evomerge.executors.contract import Job
from evomerge.executors.worker import Worker, WorkerSettings
from evomerge.recipe.merge import MergeRecipe, Rule, Source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from evomerge.evaluation.backends.contract import Backend

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
    pytest.mark.filterwarnings("ignore"),  # vLLM's own
    pytest.mark.xdist_group("vllm"),
]

WINDOW = 320
TASKS = ("tiny_choice", "tiny_answer", "tiny_cloze", "tiny_text")
ITEMS = tuple(range(0, 40, 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family whose heads are wide enough for vLLM."""
    folder = tmp_path_factory.mktemp("wide")
    sizes = {"hidden_size": 128, "intermediate_size": 96, "max_position_embeddings": WINDOW}
    build_family(folder, **sizes)
    build_tasks(folder / "tasks")
    return folder


def make_worker(folder: Path, backend: Any) -> Worker:
    settings = WorkerSettings(
        root=str(folder),
        base="base",
        tasks=[TaskSpec(name=name, include_path=str(folder / "tasks")) for name in TASKS],
        items=[TaskItems(task=name, search=ITEMS, held_out=(1, 4)) for name in TASKS],
        rungs=(0.5,),
        batch_tokens=256,
        dtype="float32",
        device="cpu",
        threads=1,
        backend=backend,
    )
    return Worker(settings)


@pytest.fixture(scope="module")
def workers(folder: Path) -> tuple[Worker, Worker]:
    """One worker with transformers, one with an engine of vLLM."""
    return make_worker(folder, "hf"), make_worker(folder, "vllm")


def merge(weight: float = 1.0, *sources: str) -> MergeRecipe:
    return MergeRecipe(
        base="base",
        sources=tuple(Source(model=source) for source in sources or ("one",)),
        operator="task_arithmetic",
        parameters={"weight": weight},
    )


MERGES = {
    "base": merge(0.0),
    "a sibling, its embeddings changed": merge(1.0),
    "three siblings and an adapter": merge(0.4, "one", "two", "three", "base+lora"),
    "base again": merge(0.0),
}


def backends(workers: Sequence[Worker], recipe: MergeRecipe) -> list[Backend]:
    """The backends, holding a merge."""
    for worker in workers:
        worker._weights.merge(recipe)
        worker._evaluator._backend.changed()
    return [worker._evaluator._backend for worker in workers]


def ask(backend: Backend, *wanted: Continuation | Prompt) -> list[Any]:
    requests = [
        PreparedRequest(kind="generate_until", prompt=each)
        if isinstance(each, Prompt)
        else PreparedRequest(kind="loglikelihood", continuations=(each,))
        for each in wanted
    ]
    return backend.plan(requests).run()


def tokens(length: int, seed: int) -> tuple[int, ...]:
    rng = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(1, 257, (length,), generator=rng).tolist())


def test_the_engine_is_the_one_that_was_asked_for(workers: tuple[Worker, Worker]) -> None:
    hf, vllm = (worker._evaluator._backend for worker in workers)
    assert isinstance(hf, HfBackend)
    assert type(vllm).__name__ == "VllmBackend"


@pytest.mark.parametrize("recipe", MERGES.values(), ids=MERGES)
def test_log_likelihoods_are_those_of_the_merged_model(
    workers: tuple[Worker, Worker], recipe: MergeRecipe
) -> None:
    asked = [
        Continuation(inputs=text[:-1], target=text[-length:])
        for seed, (size, length) in enumerate([(2, 1), (9, 1), (40, 7), (300, 299), (321, 320)])
        for text in [tokens(size, seed)]
    ]
    # Many continuations of one context, more than vLLM answers at a time.
    context = tokens(12, 99)
    asked += [Continuation(inputs=context, target=(last,)) for last in range(1, 200)]
    asked += [Continuation(inputs=context, target=(*context[-2:], last)) for last in (5, 5, 6)]
    expected, found = (ask(backend, *asked) for backend in backends(workers, recipe))
    assert [value for value, _ in found] == pytest.approx(
        [value for value, _ in expected], rel=1e-4
    )
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert sum(greedy for _, greedy in found) == 1  # the best of all that follow one context


@pytest.mark.parametrize("recipe", MERGES.values(), ids=MERGES)
def test_answers_are_those_of_the_merged_model(
    workers: tuple[Worker, Worker], recipe: MergeRecipe
) -> None:
    # The second half meets beginnings that were read already, with this and with other weights.
    asked = [
        Prompt(inputs=tokens(length, seed), until=until, max_new_tokens=16)
        for length in (1, 17, 300)
        for seed in (0, 1)
        for until in [("no such text", ""), tuple("aeiou \n.,"), ("ab", "e", "Ġ")]
    ]
    expected, found = (ask(backend, *asked) for backend in backends(workers, recipe))
    assert found == expected
    cut = [isinstance(text, Truncated) for text in found]
    assert cut == [isinstance(text, Truncated) for text in expected]


def test_greedy_continuations_are_called_greedy(workers: tuple[Worker, Worker]) -> None:
    _, vllm = backends(workers, MERGES["base"])
    context = tokens(20, 3)
    target: tuple[int, ...] = ()
    for _ in range(3):
        lasts = range(257)
        inputs = (*context, *target)
        answers = ask(vllm, *(Continuation(inputs=inputs, target=(last,)) for last in lasts))
        target = (*target, next(last for last in lasts if answers[last][1]))
    for end, greedy in ((target[-1], True), (target[-1] - 1, False)):
        whole = (*target[:-1], end)
        asked = Continuation(inputs=(*context, *target[:-1]), target=whole)
        assert ask(vllm, asked)[0][1] is greedy


def test_beginnings_that_another_model_read_are_forgotten(workers: tuple[Worker, Worker]) -> None:
    prompt = Prompt(inputs=tokens(300, 5), until=(), max_new_tokens=16)
    answers = [
        [ask(backend, prompt) for backend in backends(workers, recipe)]
        for recipe in (MERGES["base"], merge(1.0, "two"), MERGES["base"])
    ]
    assert all(expected == found for expected, found in answers)
    assert answers[0] != answers[1]


def test_a_worker_scores_candidates_alike(workers: tuple[Worker, Worker]) -> None:
    for number, recipe in enumerate(MERGES.values()):
        job = Job(number=number, recipe=recipe, split="search")
        expected, found = (worker.evaluate(job) for worker in workers)
        assert isinstance(expected, Evaluated)
        assert isinstance(found, Evaluated), found
        for ours, theirs in zip(expected.scores, found.scores, strict=True):
            exact = ours.task != "tiny_text"
            assert theirs.items == (ours.items if exact else pytest.approx(ours.items, rel=1e-4))
            assert theirs.truncated == ours.truncated


OVERFLOWING = MergeRecipe(
    base="base",
    sources=(Source(model="one"),),
    operator="task_arithmetic",
    parameters={"weight": (Rule(value=1e38, component="norm"), Rule(value=1.0))},
)


def test_a_broken_model_fails_and_the_next_one_does_not(workers: tuple[Worker, Worker]) -> None:
    _, vllm = workers
    before = vllm.evaluate(Job(number=0, recipe=MERGES["base"], split="search"))
    broken = vllm.evaluate(Job(number=1, recipe=OVERFLOWING, split="search"))
    after = vllm.evaluate(Job(number=2, recipe=MERGES["base"], split="search"))
    assert isinstance(broken, Failed)
    assert broken.reason == "log-likelihoods are NaN or infinite"
    assert isinstance(before, Evaluated)
    assert isinstance(after, Evaluated), after
    assert after.scores == before.scores


def test_a_broken_model_writes_no_answer(workers: tuple[Worker, Worker]) -> None:
    _, vllm = backends(workers, OVERFLOWING)
    prompt = Prompt(inputs=tokens(9, 1), until=(), max_new_tokens=3)
    with pytest.raises(EvaluationError, match="logits are NaN or infinite"):
        ask(vllm, prompt)
    expected, found = (ask(backend, prompt) for backend in backends(workers, MERGES["base"]))
    assert found == expected


def test_merges_may_still_choose_their_number_of_threads(workers: tuple[Worker, Worker]) -> None:
    assert workers
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    assert torch.get_num_threads() == before + 1
    torch.set_num_threads(before)
