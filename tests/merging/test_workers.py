"""Several processes merge what one does, and fail as one does."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
import torch

from evomerge.errors import MergeError
from evomerge.merging import workers
from evomerge.merging.export import export_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from evomerge.merging.sources import SourceLibrary
    from evomerge.recipe.merge import MergeRecipe

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture
def fork(monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None]) -> Callable[[int], None]:
    """Merge in so many processes from now on."""
    monkeypatch.setattr(workers, "WORTH_FORKING", 0)
    return threads


OPERATORS = ["linear", "slerp", "ties", "ties_global", "dare_linear", "della", "tsv_m", "pcb"]


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_number_of_processes_changes_nothing_and_that_of_threads_stays_as_it_was(
    operator: str,
    library: SourceLibrary,
    recipe: Callable[..., MergeRecipe],
    read_all: Callable[[Path], dict[str, Tensor]],
    fork: Callable[[int], None],
    tmp_path: Path,
) -> None:
    name = {"slerp": "t", "ties_global": "scale"}.get(operator, "weight")
    merge = recipe("one", "two", operator=operator, parameters={name: 0.5})
    merged = []
    for processes in (1, 3):
        fork(processes)
        export_checkpoint(merge, library, tmp_path / str(processes))
        assert torch.get_num_threads() == processes
        merged.append(read_all(tmp_path / str(processes)))
    assert all(torch.equal(merged[0][name], merged[1][name]) for name in merged[0])


@pytest.fixture
def in_a_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Do something in place of merging, but only in a process that was forked."""
    here, merge = os.getpid(), workers.merge_tensor

    def patch(happening: Callable[[], Any]) -> None:
        def instead(*arguments: Any) -> None:
            assert os.getpid() != here
            happening()
            merge(*arguments)

        monkeypatch.setattr(workers, "merge_tensor", instead)

    return patch


def _fail() -> None:
    raise MergeError("tensor x: went wrong")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("happening", "says"), [(_fail, "went wrong"), (_die, "was killed")])
def test_what_goes_wrong_in_a_process_is_reported_and_nothing_is_left(
    happening: Callable[[], None],
    says: str,
    in_a_process: Callable[[Callable[[], Any]], None],
    library: SourceLibrary,
    recipe: Callable[..., MergeRecipe],
    fork: Callable[[int], None],
    tmp_path: Path,
) -> None:
    in_a_process(happening)
    fork(2)
    with pytest.raises(MergeError, match=says):
        export_checkpoint(recipe("one", "two"), library, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_small_model_is_merged_in_one_process(
    monkeypatch: pytest.MonkeyPatch,
    library: SourceLibrary,
    recipe: Callable[..., MergeRecipe],
    threads: Callable[[int], None],
    tmp_path: Path,
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("forked")

    monkeypatch.setattr(workers, "_adopt", refuse)
    monkeypatch.setattr(workers, "ProcessPoolExecutor", refuse)
    threads(2)
    export_checkpoint(recipe("one", "two"), library, tmp_path / "out")
