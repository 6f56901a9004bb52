"""One worker: a live model, the merge engine and the evaluator around it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from evomerge.cache import cache_folder
from evomerge.errors import EvomergeError
from evomerge.evaluation.backends.hf import HfBackend
from evomerge.evaluation.evaluator import ResidentEvaluator
from evomerge.evaluation.scores.outcome import Evaluated, Failed, Outcome, Timing
from evomerge.live_model import choose_device, choose_dtype, load_model, named_weights
from evomerge.merging.ancestors import Ancestors
from evomerge.merging.config import as_json, merged_config
from evomerge.merging.derived import DerivedTensors
from evomerge.merging.resident import ResidentWeights
from evomerge.merging.sources import SourceLibrary
from evomerge.sensitivity.provider import Calibrator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.evaluation.backends.contract import Backend
    from evomerge.evaluation.tasks.items import TaskItems
    from evomerge.evaluation.tasks.lm_eval_tasks import TaskSpec
    from evomerge.executors.contract import Job
    from evomerge.recipe.merge import MergeRecipe
    from evomerge.recipe.search import BackendName


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSettings:
    """Everything a worker needs to know; plain data, so that it can travel.

    Attributes:
        root: Folder that relative model references start from.
        base: The base model, whose skeleton is loaded.
        tasks: The tasks.
        items: The frozen items of each task.
        rungs: Shares of the search items after which a candidate may be stopped.
        batch_tokens: Most tokens of one forward pass.
        dtype: Precision of forward passes, or `auto`.
        device: Device, or `auto`.
        threads: CPU threads; None leaves torch's own number.
        backend: What runs the model.
    """

    root: str
    base: str
    tasks: Sequence[TaskSpec]
    items: Sequence[TaskItems]
    rungs: Sequence[float]
    batch_tokens: int
    dtype: str
    device: str
    threads: int | None
    backend: BackendName = "hf"


@dataclass(frozen=True, slots=True)
class _Live:
    """A model that stays loaded: where merges are written, and what scores them."""

    weights: ResidentWeights
    evaluator: ResidentEvaluator


class Worker:
    """Merges and scores candidates, one after the other, in a model that stays loaded."""

    def __init__(self, settings: WorkerSettings) -> None:
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        device = choose_device(settings.device)
        calibrator = Calibrator(device=settings.device)
        derived = DerivedTensors(cache_folder("derived"))
        library = SourceLibrary(
            Path(settings.root), calibrate=calibrator, derived=derived, ancestors=Ancestors()
        )
        base = library.model(settings.base)
        backend = load_backend(settings, base.folder, device)
        self._settings, self._library, self._backend = settings, library, backend
        self._own = _Live(ResidentWeights(backend.weights(base), library), self._scoring(backend))
        self._own.evaluator.prepare("search")
        # Only the last one is kept: memory is dear, and another one takes less than a second.
        self._stacked: tuple[bytes, _Live] | None = None

    def evaluate(self, job: Job) -> Outcome:
        """Merge a candidate and score it; whatever goes wrong becomes a `Failed`."""
        started = time.perf_counter()
        try:
            live = self._live(job.recipe)
            live.weights.merge(job.recipe)
        except Exception as error:  # noqa: BLE001 (a failing candidate must not end the search)
            return Failed(stage="merge", reason=one_line(error))
        merged = time.perf_counter()
        try:
            scores = live.evaluator.evaluate(job.split, job.race)
        except Exception as error:  # noqa: BLE001 (a failing candidate must not end the search)
            return Failed(stage="evaluate", reason=one_line(error))
        ended = time.perf_counter()
        timing = Timing(
            merge_s=merged - started,
            forward_s=live.evaluator.forward_s,
            total_s=ended - started,
        )
        return Evaluated(
            scores=scores, timing=timing, share=live.evaluator.share(job.split, scores)
        )

    def _scoring(self, backend: Backend) -> ResidentEvaluator:
        settings = self._settings
        return ResidentEvaluator(backend, settings.tasks, settings.items, settings.rungs)

    def _live(self, recipe: MergeRecipe) -> _Live:
        """What a recipe is merged into: the base's model, or one with the layers of a stack."""
        if recipe.stack is None or not isinstance(self._backend, HfBackend):
            return self._own
        config = merged_config(recipe, self._library)
        shape = as_json(config)
        if self._stacked is None or self._stacked[0] != shape:
            self._stacked = None
            backend = self._backend.with_layers(config)
            names = {job.name for job in self._library.plan(recipe).jobs}
            weights = named_weights(backend.forward.model, names)
            live = _Live(
                ResidentWeights(weights, self._library, stacked=True), self._scoring(backend)
            )
            self._stacked = shape, live
        return self._stacked[1]


def load_backend(settings: WorkerSettings, folder: Path, device: torch.device) -> Backend:
    """Load a model into the backend that is asked for.

    Raises:
        ModelError: The backend cannot load it.
        VersionError: The backend is not installed.
    """
    dtype = choose_dtype(settings.dtype, device)
    if settings.backend == "vllm":
        from evomerge.evaluation.backends.vllm import VllmBackend

        return VllmBackend(folder, dtype, device, settings.batch_tokens)
    return HfBackend(*load_model(folder, dtype, device), settings.batch_tokens)


def one_line(error: BaseException) -> str:
    """An error as one line: our own messages as they are, others with their type."""
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, EvomergeError) else f"{type(error).__name__}: {text}"
