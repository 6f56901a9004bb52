"""Merges the tensors of a plan in several processes.

Threads of one process would wait for the interpreter most of the time. A forked process has all
that is imported, open and measured already, starts in milliseconds, and leaves its results in
memory that it shares.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import multiprocessing
import signal
import sys
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

import torch

from evomerge.errors import MergeError
from evomerge.layout import Component, locate
from evomerge.memory import keep_freed_blocks
from evomerge.merging.engine import merge_tensor
from evomerge.operators.parameters import OF_BASE, OF_SOURCES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from evomerge.merging.operands import Operands
    from evomerge.merging.plan import MergePlan, TensorJob

WORTH_FORKING = 50_000_000
"""Entries of a model above which several processes merge it."""


def merged(
    operands: Operands, release: Callable[[], None]
) -> Iterator[tuple[TensorJob, torch.Tensor]]:
    """Merge the tensors of a plan, in order, in as many processes as torch may use threads.

    Args:
        operands: The plan and where its tensors come from.
        release: Gives back the memory of what was read of them.

    Yields:
        Each tensor; it is valid until the next one is asked for.

    Raises:
        MergeError: A tensor cannot be merged, or a process was killed.
    """
    keep_freed_blocks()
    processes = torch.get_num_threads() if _may_fork(operands.plan) else 1
    if processes == 1:
        return _merged_by_one(operands, release)
    return _merged_by_many(operands, release, processes)


def _may_fork(plan: MergePlan) -> bool:
    operator, recipe = plan.operator, plan.recipe
    return (
        sys.platform.startswith("linux")
        and sum(math.prod(job.shape) for job in plan.jobs) > WORTH_FORKING
        # Others hold all sources of a tensor in memory, run models, draw one after the other, or
        # would do some work in every process again.
        and operator.elementwise
        and not operator.takes & (OF_SOURCES | OF_BASE)
        and recipe.mergekit_compat is None
        and recipe.base_recipe is None
        and all(source.model is not None for source in recipe.sources)
    )


def _merged_by_one(
    operands: Operands, release: Callable[[], None]
) -> Iterator[tuple[TensorJob, torch.Tensor]]:
    room = _Room(operands.plan, 1)
    for job in operands.plan.jobs:
        out = room.place(0, job)
        merge_tensor(operands, job, out)
        yield job, out
        release()


def _merged_by_many(
    operands: Operands, release: Callable[[], None], processes: int
) -> Iterator[tuple[TensorJob, torch.Tensor]]:
    operands.measure_model()
    # Two for each process, which then need not wait for the caller, and one for the caller.
    places = 2 * processes + 1
    room, free = _Room(operands.plan, places), deque(range(places))
    waiting: deque[tuple[TensorJob, int, Future[None]]] = deque()
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, context, _adopt, (operands, release, room)) as pool:
        try:
            for number, job in enumerate(operands.plan.jobs):
                # Embedding and head are merged one after the other: side by side they would need
                # as much memory as all else together.
                while not free or (
                    _is_huge(job) and any(_is_huge(other) for other, *_ in waiting)
                ):
                    yield _take(waiting, room, free)
                place = free.popleft()
                waiting.append((job, place, pool.submit(_merge, number, place)))
            while waiting:
                yield _take(waiting, room, free)
        except BrokenProcessPool:
            raise MergeError(
                "a process that merges was killed, perhaps for want of memory; with "
                "OMP_NUM_THREADS=1 there is only one"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _take(
    waiting: deque[tuple[TensorJob, int, Future[None]]], room: _Room, free: deque[int]
) -> tuple[TensorJob, torch.Tensor]:
    job, place, future = waiting.popleft()
    future.result()
    free.append(place)
    return job, room.place(place, job)


_OWN: list[tuple[Operands, Callable[[], None], _Room]] = []
"""What this process merges with, if it is one of many."""


def _adopt(operands: Operands, release: Callable[[], None], room: _Room) -> None:
    _OWN.append((operands, release, room))
    torch.set_num_threads(1)  # those that the parent has started are not here
    # Whoever presses Ctrl-C or kills the parent wants no word from its children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    when_parent_dies = 1
    ctypes.CDLL(None).prctl(when_parent_dies, signal.SIGKILL)


def _merge(number: int, place: int) -> None:
    operands, release, room = _OWN[0]
    job = operands.plan.jobs[number]
    merge_tensor(operands, job, room.place(place, job))
    release()


class _Room:
    """Room for the results of some merges at a time, shared with processes that are forked."""

    def __init__(self, plan: MergePlan, places: int) -> None:
        self._size = max(map(_size, plan.jobs), default=0) or 1
        self._memory = [
            torch.frombuffer(mmap.mmap(-1, self._size), dtype=torch.uint8) for _ in range(places)
        ]

    def place(self, number: int, job: TensorJob) -> torch.Tensor:
        """A tensor for the result of a job, in one of the places."""
        return self._memory[number][: _size(job)].view(job.dtype).view(job.shape)


def _is_huge(job: TensorJob) -> bool:
    return locate(job.name).component in (Component.EMBEDDING, Component.HEAD)


def _size(job: TensorJob) -> int:
    return math.prod(job.shape) * job.dtype.itemsize
