"""Finds lm-eval's tasks and groups by name, local ones before lm-eval's own."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import TaskError, did_you_mean
from evomerge.evaluation.generated_code.code_tasks import (
    ACCEPTED,
    accepted_by_metrics,
    refuse_generated_code,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

DATA_TAG = "tag:yaml.org,2002:"
"""What tags of plain data begin with; `!function` and the like do not."""


def load_task(
    name: str,
    include_path: str | None = None,
    *,
    allow_code: bool = False,
    allow_generated_code: bool = False,
) -> Any:
    """Load a task.

    Args:
        name: Its name.
        include_path: Folder of local task files.
        allow_code: Whether local task files may name Python functions.
        allow_generated_code: Whether it may run the code that models generate.

    Raises:
        TaskError: It does not exist, is a group, is not allowed, or cannot be loaded.
    """
    manager = _manager_that_knows(name, include_path, allow_code=allow_code)
    _look_for_generated_code(manager, name, allowed=allow_generated_code)
    if name not in manager.all_subtasks:
        raise TaskError(f"task {name}: is a group; give one of its tasks")
    with accepted_by_metrics(allowed=allow_generated_code):
        task = _loaded(manager, name, name)[name]
    if runs_generated_code(task):
        refuse_generated_code(name, allowed=allow_generated_code)
    return task


def runs_generated_code(task: Any) -> bool:
    """Whether a task of lm-eval says that it runs the code that models generate."""
    return bool(getattr(task, "UNSAFE_CODE", False))


def load_text(name: str, file: Path) -> Any:
    """Make a task of predicting a text file, of which every line is a document.

    Args:
        name: What the task is called.
        file: The text; empty lines do not count.

    Raises:
        TaskError: It cannot be read.
    """
    from lm_eval.tasks import TaskManager

    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise TaskError(f"task {name}: text: {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TaskError(
            f"task {name}: text: {file}: is not UTF-8 at byte {error.start}"
        ) from error
    if not text.strip():
        raise TaskError(f"task {name}: text: {file}: holds no text")
    settings = {
        "task": name,
        "dataset_path": "text",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "process_docs": _without_empty_lines,
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [
            {"metric": metric, "aggregation": aggregation, "higher_is_better": False}
            for metric, aggregation in (
                ("bits_per_byte", "bits_per_byte"),
                ("byte_perplexity", "weighted_perplexity"),
                ("word_perplexity", "weighted_perplexity"),
            )
        ],
    }
    return _loaded(TaskManager(include_defaults=False), name, settings)[name]


def _without_empty_lines(documents: Any) -> Any:
    return documents.filter(lambda document: bool(document["text"].strip()))


def tasks_of(
    name: str,
    include_path: str | None = None,
    *,
    allow_code: bool = False,
    allow_generated_code: bool = False,
) -> list[str]:
    """The tasks of a group, in its order, those of groups in it included; a task is its own.

    Raises:
        TaskError: See `load_task`; or the group has settings of its own for a task.
    """
    manager = _manager_that_knows(name, include_path, allow_code=allow_code)
    _look_for_generated_code(manager, name, allowed=allow_generated_code)
    if name in manager.all_subtasks:
        return [name]
    with accepted_by_metrics(allowed=allow_generated_code):
        tasks = _loaded(manager, name, name)
    for each, task in tasks.items():
        alone = load_task(
            each,
            include_path,
            allow_code=allow_code,
            allow_generated_code=allow_generated_code,
        )
        for key in _differing(task.dump_config(), alone.dump_config()):
            raise TaskError(
                f"task {name}: the group changes {key} of {each}; list its tasks one by one, with "
                "settings of their own"
            )
    return list(tasks)


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    keys = sorted(first.keys() | second.keys())
    # Functions are other objects each time they are loaded.
    return [
        key for key in keys if not callable(first.get(key)) and first.get(key) != second.get(key)
    ]


def _manager_that_knows(name: str, include_path: str | None, *, allow_code: bool) -> Any:
    # lm-eval announces every prompt it builds at level INFO.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if include_path is not None:
        refuse_code(Path(include_path), allowed=allow_code)
    manager = _manager(include_path)
    if name not in manager.all_tasks:
        manager = _manager_with_defaults(include_path)
    if name not in manager.all_tasks:
        known = did_you_mean(name, manager.all_tasks)
        hint = known or "; tasks of your own are found in evaluation.include_path"
        raise TaskError(f"task {name!r} does not exist{hint}")
    return manager


def _look_for_generated_code(manager: Any, name: str, *, allowed: bool) -> None:
    """Refuse before loading: loading fetches the metrics that run code, and tries them out."""
    from lm_eval.tasks._yaml_loader import load_yaml

    index, waiting, seen = manager.task_index, [name], set()
    while waiting:
        each = waiting.pop()
        if each in seen or each not in index:
            continue
        seen.add(each)
        file = index[each].yaml_path
        settings: dict[str, Any] = {}
        with contextlib.suppress(Exception):  # what is wrong with a file is said when it is loaded
            settings = load_yaml(file, resolve_func=False) if file else {}
        if settings.get("unsafe_code"):
            refuse_generated_code(each, allowed=allowed)
        waiting += _members(settings.get("task"))
        waiting += [other for other, entry in index.items() if each in entry.tags]


def _members(value: Any) -> list[str]:
    """Names in a group's list of tasks, which may hold groups, and settings for tasks."""
    if isinstance(value, dict):
        return _members(value.get("task")) + _members(value.get("group"))
    if isinstance(value, list):
        return [name for each in value for name in _members(each)]
    return [value] if isinstance(value, str) else []


def _loaded(manager: Any, name: str, what: object) -> dict[str, Any]:
    try:
        with quietly():
            tasks: dict[str, Any] = manager.load([what])["tasks"]
    except Exception as error:
        # The answer of metrics of `evaluate` that run code is a page of warnings.
        if ACCEPTED in str(error):
            refuse_generated_code(name, allowed=False)
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TaskError(f"task {name}: cannot be loaded: {cause}") from error
    return tasks


def _manager(include_path: str | None) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path, include_defaults=False)


@functools.cache
def _manager_with_defaults(include_path: str | None) -> Any:
    # lm-eval's own 10,000 task files take seconds to read: only when they are needed, and once.
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path)


def quietly() -> contextlib.AbstractContextManager[object]:
    """Keep lm-eval and datasets from drawing progress bars, which nothing else turns off."""
    return contextlib.redirect_stderr(io.StringIO())


def refuse_code(folder: Path, *, allowed: bool) -> None:
    """Refuse a folder of task files that would run Python code.

    Raises:
        TaskError: The folder is missing, or names functions and `allowed` is not set.
    """
    if not folder.is_dir():
        raise TaskError(f"evaluation.include_path: {folder} is not a folder")
    waiting = [] if allowed else sorted(folder.rglob("*.yaml"), reverse=True)
    seen: set[Path] = set()
    while waiting:
        file = waiting.pop().resolve()
        if file in seen:
            continue
        seen.add(file)
        tags, included = _tags_and_includes(file)
        if not all(tag.startswith(DATA_TAG) and "python" not in tag for tag in tags):
            raise TaskError(
                f"{file}: runs Python code (!function); read it, then set "
                "evaluation.allow_task_code=true to accept it"
            )
        # They may have any name, and lie anywhere.
        waiting += [file.parent / name for name in included]


def _tags_and_includes(file: Path) -> tuple[set[str], list[str]]:
    """Every tag of a YAML file, however it is written, and the files that it includes."""
    import yaml

    try:
        top = yaml.compose(file.read_bytes(), Loader=yaml.SafeLoader)
    except (OSError, yaml.YAMLError):
        return set(), []  # lm-eval cannot read it, either
    nodes: dict[int, Any] = {}
    waiting, included = [top] if top else [], []
    while waiting:
        node = waiting.pop()
        if id(node) in nodes:  # an alias
            continue
        nodes[id(node)] = node
        if isinstance(node, yaml.MappingNode):
            waiting += [each for pair in node.value for each in pair]
            included += [value for key, value in node.value if key.value == "include"]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
    lists = [each.value if isinstance(each.value, list) else [each] for each in included]
    names = [str(each.value) for each in itertools.chain(*lists)]
    return {node.tag for node in nodes.values()}, names
