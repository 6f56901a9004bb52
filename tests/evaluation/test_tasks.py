"""Promise: what is wrong with a task is said in one line before anything is scored."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from programs import program_task, write_program_task

from evomerge.errors import EvaluationError, TaskError
from evomerge.evaluation.generated_code import code_tasks
from evomerge.evaluation.scores.outcome import TaskScore
from evomerge.evaluation.tasks.lm_eval_tasks import HarnessTask, TaskSpec
from evomerge.evaluation.tasks.task_files import tasks_of

if TYPE_CHECKING:
    from pathlib import Path

needs_sandbox = pytest.mark.skipif(
    code_tasks._no_sandbox() is not None, reason="the kernel has no sandbox for us"
)


def spec(family: Path, name: str = "tiny_choice", **settings: Any) -> TaskSpec:
    return TaskSpec(name=name, include_path=str(family / "tasks"), **settings)


@pytest.fixture
def own_tasks(family: Path, tmp_path: Path) -> Path:
    shutil.copytree(family / "tasks", tmp_path / "tasks")
    return tmp_path


def change(folder: Path, name: str, **settings: Any) -> None:
    file = folder / "tasks" / f"{name}.yaml"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.mark.slow
def test_an_unknown_task_is_named_with_the_nearest_one(family: Path) -> None:
    with pytest.raises(
        TaskError, match=r"task 'tiny_choise' does not exist; did you mean 'tiny_c"
    ):
        HarnessTask(spec(family, "tiny_choise"))


def test_an_unknown_metric_is_named_with_those_that_exist(family: Path) -> None:
    with pytest.raises(
        TaskError, match=r"has no metric 'accc'; did you mean 'acc'\?; it has: acc"
    ):
        HarnessTask(spec(family, metric="accc"))


def test_an_unknown_filter_is_named_with_those_that_exist(family: Path) -> None:
    with pytest.raises(TaskError, match=r"has no filter 'strict'; it has: none"):
        HarnessTask(spec(family, metric="acc,strict"))


def test_a_missing_task_folder_is_named(family: Path) -> None:
    with pytest.raises(TaskError, match=r"include_path: .*nowhere is not a folder"):
        HarnessTask(TaskSpec(name="x", include_path=str(family / "nowhere")))


def test_a_task_that_cannot_be_loaded_says_why(own_tasks: Path) -> None:
    change(own_tasks, "tiny_choice", dataset_kwargs={"data_files": {"test": "gone.jsonl"}})
    with pytest.raises(TaskError, match=r"task tiny_choice: cannot be loaded: .*gone.jsonl"):
        HarnessTask(spec(own_tasks))


def test_a_folder_with_python_code_is_refused_until_it_is_allowed(own_tasks: Path) -> None:
    (own_tasks / "tasks" / "code.yaml").write_text("task: code\ndoc_to_text: !function x.y\n")
    with pytest.raises(TaskError, match=r"code.yaml: runs Python code .*allow_task_code=true"):
        HarnessTask(spec(own_tasks))
    assert HarnessTask(spec(own_tasks, allow_code=True)).name == "tiny_choice"


PROGRAMS = {
    "right": "def double(n):\n    return 2 * n",
    "wrong": "def double(n):\n    return n",
    "broken": "def double(",
    "curious": "import os\ndef double(n):\n    return 2 * n if os.getpid() == 1 else 0",
    "endless": "while True:\n    pass",
    "deadly": "import os\nos._exit(0)",
}


@pytest.fixture
def programs(tmp_path: Path) -> TaskSpec:
    """A task whose metric runs the answers, as humaneval's does."""
    write_program_task(tmp_path / "tasks")
    return program_task(tmp_path / "tasks")


def scored(task_spec: TaskSpec, *answers: str) -> TaskScore:
    task = HarnessTask(task_spec)
    task.build(range(len(answers)))
    return task.score([PROGRAMS[answer] for answer in answers])


REFUSED = (
    r"^task programs: runs the code that models generate \(unsafe_code\); read SECURITY.md, then "
    r"set evaluation.allow_generated_code=true to accept it$"
)


def test_a_task_that_runs_generated_code_is_refused_until_it_is_allowed(
    programs: TaskSpec,
) -> None:
    with pytest.raises(TaskError, match=REFUSED):
        HarnessTask(replace(programs, allow_generated_code=False))


def test_a_task_that_runs_generated_code_is_refused_before_its_own_code_runs(
    programs: TaskSpec, tmp_path: Path
) -> None:
    (tmp_path / "tasks" / "utils.py").write_text("raise SystemExit('this was run')")
    with pytest.raises(TaskError, match=REFUSED):
        HarnessTask(replace(programs, allow_generated_code=False))


@pytest.mark.parametrize(
    "group",
    [
        {"group": "all", "task": ["programs"]},
        {"group": "all", "task": [{"group": "in", "task": ["programs"]}]},
    ],
)
def test_a_group_with_a_task_that_runs_generated_code_is_refused(
    programs: TaskSpec, tmp_path: Path, group: dict[str, Any]
) -> None:
    folder = tmp_path / "tasks"
    (folder / "all.yaml").write_text(json.dumps(group))
    with pytest.raises(TaskError, match=REFUSED):
        tasks_of("all", str(folder), allow_code=True)


def test_a_mark_of_generated_code_in_an_included_file_counts(
    programs: TaskSpec, tmp_path: Path
) -> None:
    (tmp_path / "tasks" / "other.yaml").write_text("include: programs.yaml\ntask: other\n")
    with pytest.raises(TaskError, match=r"^task other: runs the code that models generate"):
        HarnessTask(replace(programs, name="other", allow_generated_code=False))


def test_a_task_that_runs_generated_code_is_refused_where_there_is_no_sandbox(
    programs: TaskSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_tasks, "_no_sandbox", lambda: "unshare: not permitted")
    with pytest.raises(
        TaskError, match=r"no sandbox for it \(unshare: not permitted\); allow user"
    ):
        HarnessTask(programs)


@needs_sandbox
@pytest.mark.parametrize(
    ("answers", "items"),
    [
        (("right", "wrong"), (1.0, 0.0)),
        (("broken", "right"), (0.0, 1.0)),
        (("curious", "right"), (1.0, 1.0)),
    ],
)
def test_generated_code_is_scored_in_a_process_of_its_own(
    programs: TaskSpec, answers: tuple[str, str], items: tuple[float, float]
) -> None:
    score = scored(programs, *answers)
    assert score.items == items
    assert score.score == sum(items) / 2


@needs_sandbox
def test_generated_code_that_never_ends_fails_its_candidate_only(
    programs: TaskSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_tasks, "START_S", 1)
    monkeypatch.setattr(code_tasks, "ITEM_S", 0)
    with pytest.raises(
        EvaluationError, match=r"^task programs: generated code was stopped after 1 s$"
    ):
        scored(programs, "endless", "right")
    assert scored(programs, "right", "right").score == 1.0


@needs_sandbox
def test_generated_code_that_ends_its_process_fails_its_candidate_only(programs: TaskSpec) -> None:
    with pytest.raises(EvaluationError, match=r"^task programs: .* ended without a result"):
        scored(programs, "deadly", "right")
    assert scored(programs, "right", "right").score == 1.0


@needs_sandbox
@pytest.mark.parametrize(
    "scores", [None, [], [1.0], [1.0, [1.0, "x"]], [1.0, [1.0]], {"a": 1, "b": 2}]
)
def test_scores_of_generated_code_that_are_none_fail_its_candidate(scores: Any) -> None:
    with pytest.raises(
        EvaluationError, match=r"task programs: .* did not give the scores of 2 items"
    ):
        code_tasks.score_in_sandbox("programs", lambda: scores, 2, 2)


def test_a_metric_that_asks_for_consent_is_told_only_while_it_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    for allowed, seen in ((True, "1"), (False, None)):
        with code_tasks.accepted_by_metrics(allowed=allowed):
            assert os.environ.get("HF_ALLOW_CODE_EVAL") == seen
        assert "HF_ALLOW_CODE_EVAL" not in os.environ


@pytest.mark.slow
@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_a_real_task_that_lacks_its_metric_offline_says_so_in_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_tasks, "_no_sandbox", lambda: None)
    with pytest.raises(TaskError, match=f"^task {name}: runs the code that models generate"):
        HarnessTask(TaskSpec(name=name))
    with pytest.raises(
        TaskError, match=rf"^task {name}: cannot be loaded: [^\n]*code_eval[^\n]*$"
    ):
        HarnessTask(TaskSpec(name=name, allow_generated_code=True))


@pytest.mark.parametrize(
    "text",
    [
        "process_docs: !function own.f",
        "metric_list: [!function own.f]",
        "process_docs: !<!function> own.f",
        "%TAG !x! !func\n---\nprocess_docs: !x!tion own.f",
        "process_docs: !!python/name:os.system",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("included", [True, False])
def test_python_code_is_found_however_it_is_written(
    own_tasks: Path, text: str, encoding: str, included: bool
) -> None:
    file = own_tasks / ("common" if included else "tasks/code.yaml")
    file.write_bytes(text.encode(encoding))
    if included:
        change(own_tasks, "tiny_choice", include=["../common"])
    with pytest.raises(TaskError, match=rf"{file}: runs Python code .*allow_task_code=true"):
        HarnessTask(spec(own_tasks))


def test_sampled_answers_are_refused(own_tasks: Path) -> None:
    change(own_tasks, "tiny_answer", generation_kwargs={"do_sample": True, "temperature": 0.7})
    task = HarnessTask(spec(own_tasks, "tiny_answer"))
    with pytest.raises(TaskError, match=r"asks for random sampling.*do_sample: false"):
        task.build([0, 1])


def test_the_direction_of_a_metric_is_the_tasks_own(family: Path) -> None:
    assert HarnessTask(spec(family)).higher_is_better
    assert not HarnessTask(spec(family, "tiny_text")).higher_is_better


def test_examples_in_the_prompt_can_be_asked_for(family: Path) -> None:
    plain, shown = (HarnessTask(spec(family, num_fewshot=n)) for n in (0, 2))
    for task in (plain, shown):
        task.build([3])
    assert len(shown.requests[0].args[0]) > len(plain.requests[0].args[0])


def test_equal_documents_have_equal_digests(family: Path) -> None:
    digests = HarnessTask(spec(family)).document_digests()
    assert len(set(digests)) == len(digests) == 40


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_cannot_be_made(bad: float) -> None:
    with pytest.raises(EvaluationError, match="task t: 1 scores are NaN or infinite"):
        TaskScore(task="t", score=0.5, items=(0.0, bad))


def test_a_text_file_is_a_task_of_its_lines(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("one two\n\nthree\n")
    task = HarnessTask(TaskSpec(name="words", text=str(tmp_path / "words.txt")))
    assert not task.higher_is_better
    assert not task.is_mean
    task.build([1, 0])
    assert [request.args for request in task.requests] == [("three",), ("one two",)]
    score = task.score([-10.0, -14.0])
    bits_per_byte = 24 / math.log(2) / len("onetwothree" + " ")
    assert score.score == pytest.approx(bits_per_byte)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "none.txt: No such file"),
        (b"", "none.txt: holds no text"),
        (b" \n\n", "none.txt: holds no text"),
        (b"fine\n\xff", "none.txt: is not UTF-8 at byte 5"),
    ],
)
def test_a_text_file_that_cannot_be_used_is_named(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "none.txt").write_bytes(content)
    with pytest.raises(TaskError, match=f"task words: text: .*{message}"):
        HarnessTask(TaskSpec(name="words", text=str(tmp_path / "none.txt")))


def test_settings_of_generation_for_a_task_that_generates_nothing_are_refused(
    family: Path,
) -> None:
    with pytest.raises(TaskError, match="tiny_choice: generation: it generates nothing"):
        HarnessTask(spec(family, generation={"max_gen_toks": 3}))


@pytest.mark.parametrize(
    "settings", [{"num_fewshot": 1}, {"system_instruction": "Be brief."}, {"chat_template": True}]
)
def test_prompts_for_a_task_without_prompts_are_refused(
    family: Path, settings: dict[str, Any]
) -> None:
    (name,) = settings
    with pytest.raises(TaskError, match=f"task tiny_text: {name}: texts have no prompts"):
        HarnessTask(spec(family, "tiny_text", **settings))


def test_settings_of_generation_that_would_be_ignored_are_refused(own_tasks: Path) -> None:
    change(own_tasks, "tiny_answer", generation_kwargs={"num_beams": 4, "until": ["."]})
    with pytest.raises(TaskError, match="generation_kwargs: num_beams is not followed here"):
        HarnessTask(spec(own_tasks, "tiny_answer")).try_out(0)


def test_more_examples_than_there_are_is_said_before_anything_is_scored(family: Path) -> None:
    with pytest.raises(TaskError, match="task tiny_choice: its prompts cannot be built: "):
        HarnessTask(spec(family, num_fewshot=1000)).try_out(0)


def test_a_group_that_changes_its_tasks_is_refused(own_tasks: Path) -> None:
    members = [{"task": "tiny_choice", "num_fewshot": 2}, "tiny_cloze"]
    (own_tasks / "tasks" / "both.yaml").write_text(json.dumps({"group": "both", "task": members}))
    with pytest.raises(
        TaskError, match="group changes num_fewshot of tiny_choice; list its tasks"
    ):
        tasks_of("both", str(own_tasks / "tasks"))
