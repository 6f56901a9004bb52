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
from evomerge.live_model import choose_device, choose_dtype, load_model
from evomerge.merging.ancestors import Ancestors
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
        self._weights = ResidentWeights(backend.weights(base), library)
        self._evaluator = ResidentEvaluator(
            backend, settings.tasks, settings.items, settings.rungs
        )
        self._evaluator.prepare("search")

    def evaluate(self, job: Job) -> Outcome:
        """Merge a candidate and score it; whatever goes wrong becomes a `Failed`."""
        started = time.perf_counter()
        try:
            self._weights.merge(job.recipe)
        except Exception as error:  # noqa: BLE001 (a failing candidate must not end the search)
            return Failed(stage="merge", reason=one_line(error))
        merged = time.perf_counter()
        try:
            scores = self._evaluator.evaluate(job.split, job.race)
        except Exception as error:  # noqa: BLE001 (a failing candidate must not end the search)
            return Failed(stage="evaluate", reason=one_line(error))
        ended = time.perf_counter()
        timing = Timing(
            merge_s=merged - started,
            forward_s=self._evaluator.forward_s,
            total_s=ended - started,
        )
        return Evaluated(
            scores=scores, timing=timing, share=self._evaluator.share(job.split, scores)
        )


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
