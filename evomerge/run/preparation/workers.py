"""Decides how many workers a search gets, and starts them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from evomerge.executors.worker import WorkerSettings
from evomerge.run.preparation.scoring import task_specs

if TYPE_CHECKING:
    from evomerge.executors.contract import Executor
    from evomerge.recipe.search import SearchRecipe
    from evomerge.run.preparation.prepare import PreparedSearch


class WorkerPlan(NamedTuple):
    """How many workers there are, and how many threads each has."""

    workers: int
    threads: int


def plan_workers(recipe: SearchRecipe, parameters: int) -> WorkerPlan:
    """How many workers, and how many threads each: the recipe's numbers, else by the machine.

    Args:
        recipe: The search recipe.
        parameters: Number of the model's parameters.
    """
    cores = len(os.sched_getaffinity(0))
    if recipe.executor.kind == "inline":
        return WorkerPlan(1, recipe.executor.threads or cores)
    fitting = min(cores, _fitting(recipe, parameters))
    workers = recipe.executor.workers or _gpus(recipe.evaluation.device) or fitting
    return WorkerPlan(workers, recipe.executor.threads or max(1, cores // workers))


def _fitting(recipe: SearchRecipe, parameters: int) -> int:
    """Workers that fit into the memory of this machine, at least one."""
    memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # A worker holds its model in float32, and beside it libraries and activations.
    beside = {"hf": 1_000_000_000, "vllm": 3_000_000_000}[recipe.evaluation.backend]
    if recipe.genome.path:  # and a second model, which may be deeper
        beside += 4 * parameters * recipe.genome.path.repeats
    return max(1, memory // (8 * parameters + beside))


def _gpus(device: str) -> int:
    """GPUs of this machine that workers may use."""
    import torch

    return torch.cuda.device_count() if device in {"auto", "cuda"} else 0


def build_executor(search: PreparedSearch, workers: int, threads: int) -> Executor:
    """Start the workers that a recipe asks for.

    Raises:
        RunError: They cannot be started.
        VersionError: Ray is asked for and not installed.
    """
    evaluation = search.recipe.evaluation
    settings = WorkerSettings(
        root="/",
        base=search.recipe.base,
        tasks=task_specs(search.recipe),
        items=search.items,
        rungs=evaluation.racing.rungs if evaluation.racing else (),
        batch_tokens=evaluation.batch_tokens,
        dtype=evaluation.dtype,
        device=evaluation.device,
        threads=threads,
        backend=evaluation.backend,
    )
    if search.recipe.executor.kind == "inline":
        from evomerge.executors.inline import InlineExecutor

        return InlineExecutor(settings)
    from evomerge.executors.ray import RayExecutor

    return RayExecutor(settings, workers, search.recipe.executor.address)
