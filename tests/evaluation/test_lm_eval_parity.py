"""Promise: every kind of task that lm-eval knows gets lm-eval's answers and lm-eval's scores."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from evomerge.evaluation.passes.answers import AnswerPlan
from evomerge.evaluation.passes.forward import Forward
from evomerge.evaluation.passes.tokens import Tokenizer
from evomerge.evaluation.tasks.lm_eval_tasks import HarnessTask, TaskSpec
from evomerge.evaluation.tasks.task_files import tasks_of
from evomerge.live_model import load_model

if TYPE_CHECKING:
    from pathlib import Path

ITEMS = (7, 2, 31, 5, 12, 0, 20, 3)
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)

PLAIN: dict[str, Any] = {}
TURNS = {"chat_template": True}
ONE_TURN = {
    "chat_template": True,
    "fewshot_as_multiturn": False,
    "system_instruction": "Be brief.",
}
INSTRUCTED = {"system_instruction": "Think of cats."}
LONGER = {"generation": {"max_gen_toks": 9, "until": ["o", "e"]}}


def mean(*names: str) -> list[dict[str, Any]]:
    return [{"metric": n, "aggregation": "mean", "higher_is_better": True} for n in names]


def shots(count: int) -> dict[str, Any]:
    return {
        "num_fewshot": count,
        "fewshot_split": "test",
        "fewshot_config": {"sampler": "first_n"},
    }


WORD = {"function": "regex", "regex_pattern": "([a-z]+)", "group_select": -1}
FILTERS = [
    {"name": "last", "filter": [WORD, {"function": "take_first"}]},
    {"name": "plain", "filter": [{"function": "take_first"}]},
]
PERPLEXITIES = [
    {"metric": name, "aggregation": of, "higher_is_better": False}
    for name, of in (
        ("word_perplexity", "weighted_perplexity"),
        ("byte_perplexity", "weighted_perplexity"),
        ("bits_per_byte", "bits_per_byte"),
    )
]

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # name: the tiny task it is made of, its own settings, those of the recipe
    "choice": ("tiny_choice", {"metric_list": mean("acc", "acc_norm")}, PLAIN),
    "choice_shots": ("tiny_choice", shots(3) | {"metric_list": mean("acc", "acc_norm")}, PLAIN),
    "choice_chat": ("tiny_choice", shots(2), TURNS),
    "choice_one_turn": ("tiny_choice", shots(2), ONE_TURN),
    "choice_described": ("tiny_choice", shots(1) | {"description": "Choose:\n\n"}, INSTRUCTED),
    "answer": ("tiny_answer", {}, PLAIN),
    "answer_shots": ("tiny_answer", shots(2), PLAIN),
    "answer_filters": ("tiny_answer", {"filter_list": FILTERS}, PLAIN),
    "answer_any_case": (
        "tiny_answer",
        {"metric_list": [mean("exact_match")[0] | {"ignore_case": True}]},
        PLAIN,
    ),
    "answer_chat": ("tiny_answer", shots(2), TURNS),
    "answer_longer": ("tiny_answer", {}, LONGER),
    "cloze": (
        "tiny_cloze",
        {
            "metric_list": [
                *mean("acc"),
                {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            ]
        },
        PLAIN,
    ),
    "cloze_shots": ("tiny_cloze", shots(2), INSTRUCTED),
    "text": ("tiny_text", {"metric_list": PERPLEXITIES}, PLAIN),
}


@pytest.fixture(scope="module")
def chatty(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a chat template, and tasks of many kinds."""
    folder = tmp_path_factory.mktemp("parity")
    shutil.copytree(family / "one", folder / "model")
    (folder / "model" / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "tasks").mkdir()
    for name, (origin, changes, _) in CASES.items():
        task = json.loads((family / "tasks" / f"{origin}.yaml").read_text())
        (folder / "tasks" / f"{name}.yaml").write_text(json.dumps(task | changes | {"task": name}))
    group = {"group": "all_choices", "task": ["choice", "choice_shots"]}
    (folder / "tasks" / "group.yaml").write_text(json.dumps(group))
    return folder


@pytest.fixture(scope="module")
def theirs(chatty: Path) -> dict[str, dict[str, Any]]:
    """lm-eval's results and samples of every task."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    found: dict[str, dict[str, Any]] = {}
    for settings in (PLAIN, TURNS, ONE_TURN, INSTRUCTED, LONGER):
        names = [name for name, (*_, given) in CASES.items() if given is settings]
        names = ["all_choices", *names[2:]] if settings is PLAIN else names
        tasks = [name for name, (*_, given) in CASES.items() if given is settings]
        with contextlib.redirect_stderr(io.StringIO()):
            answer = simple_evaluate(
                model="hf",
                model_args=f"pretrained={chatty / 'model'},dtype=float32",
                tasks=names,
                task_manager=TaskManager(
                    include_path=str(chatty / "tasks"), include_defaults=False
                ),
                samples={task: sorted(ITEMS) for task in tasks},
                batch_size=4,
                bootstrap_iters=0,
                log_samples=True,
                device="cpu",
                apply_chat_template=settings.get("chat_template", False),
                fewshot_as_multiturn=settings.get("fewshot_as_multiturn", True)
                and settings.get("chat_template", False),
                system_instruction=settings.get("system_instruction"),
                gen_kwargs=settings.get("generation"),
            )
        for task in tasks:
            found[task] = {
                "results": answer["results"][task],
                "samples": {each["doc_id"]: each for each in answer["samples"][task]},
            }
    return found


@pytest.fixture(scope="module")
def live(chatty: Path) -> tuple[Forward, Tokenizer]:
    model, tokenizer = load_model(chatty / "model", torch.float32, torch.device("cpu"))
    return Forward(model), Tokenizer(model, tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_answers_and_scores_are_those_of_lm_eval(
    name: str, chatty: Path, live: tuple[Forward, Tokenizer], theirs: dict[str, Any]
) -> None:
    settings = CASES[name][2]
    expected = theirs[name]
    forward, tokenizer = live
    task = HarnessTask(spec_of(chatty, name, None, settings))
    task.build(ITEMS, tokenizer)
    plan = AnswerPlan(tokenizer.prepare(task.requests), forward, tokenizer, 512)
    answers = plan.run()
    for request, answer in zip(task.requests, answers, strict=True):
        sample = expected["samples"][sorted(ITEMS)[request.doc_id]]
        assert_same_answer(answer, sample["resps"][request.idx][0])
    metrics = [key for key in expected["results"] if "," in key and "stderr" not in key]
    assert metrics
    for metric in metrics:
        scored = HarnessTask(spec_of(chatty, name, metric, settings))
        scored.build(ITEMS, tokenizer)
        score = scored.score(answers)
        rolling = task.requests[0].request_type == "loglikelihood_rolling"
        approximate = rolling or metric.startswith("perplexity")
        wanted = expected["results"][metric]
        assert score.score == (pytest.approx(wanted, rel=1e-5) if approximate else wanted)
        if scored.is_mean:
            key, _, kind = metric.partition(",")
            for position, value in zip(ITEMS, score.items, strict=True):
                sample = expected["samples"][position]
                if sample["filter"] == kind:
                    assert value == sample[key]


def spec_of(chatty: Path, name: str, metric: str | None, settings: dict[str, Any]) -> TaskSpec:
    return TaskSpec(name=name, metric=metric, include_path=str(chatty / "tasks"), **settings)


def assert_same_answer(ours: Any, theirs: Any) -> None:
    if isinstance(ours, str):
        assert ours == theirs
    elif isinstance(ours, tuple):
        assert ours[0] == pytest.approx(float(theirs[0]), rel=1e-4)
        assert ours[1] == (str(theirs[1]) == "True")
    else:
        assert ours == pytest.approx(float(theirs), rel=1e-4)


def test_a_group_is_its_tasks(chatty: Path) -> None:
    assert tasks_of("all_choices", str(chatty / "tasks")) == ["choice", "choice_shots"]
    assert tasks_of("choice", str(chatty / "tasks")) == ["choice"]
