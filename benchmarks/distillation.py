"""Training steps of a distillation: ours against TRL's GKD trainer.

    python benchmarks/distillation.py --peers FOLDER [--models wide] [--pairs 5] [--steps 3]

FOLDER holds TRL for this python and its transformers:
`pip install --no-deps --target FOLDER trl`. Both sides train the same model with the same batches
and the same optimiser: random Llamas of width 256 with tied embeddings, sequences of one length,
so that nobody gains by packing, float32, one thread.

| way | what is done in a step |
| --- | --- |
| trl | student and teacher read the batch, forward KL of all logits, prompts masked afterwards |
| live | ours, with the same teacher and loss |
| cached | ours, with 64 tokens of the teacher in a cache and a tenth of cross entropy |

Each measurement is a process of its own, forked where all libraries are imported; ways take turns.
A step is counted from the end of the one before: reading data and logging are in it. CPU seconds;
medians, and the median ratio of a round with its range. Before anything is timed, trl and live
have to have the same losses in 20 steps.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import argparse
import logging
import multiprocessing
import resource
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from distillation_sides import (
    INNER,
    LAYERS,
    VOCABULARIES,
    WIDTH,
    Case,
    cache_of,
    ours,
    theirs,
)
from transformers import TrainerCallback

from evomerge.memory import freed_memory_kept

if TYPE_CHECKING:
    from collections.abc import Callable

MASKED = (0.0, 0.5, 0.8)
WAYS = ("trl", "live", "cached")
WARM_UP = 1
FIRST, LATER = 1e-5, 1e-3
"""By how much the loss of the first step may differ between trl and live, and of later ones."""


@dataclass
class Clock(TrainerCallback):  # type: ignore[misc] # (transformers has no types)
    """Reads clocks at the end of every step, and the loss."""

    ends: list[tuple[float, float]] = field(default_factory=list)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        self.ends.append((time.process_time(), time.perf_counter()))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was seen of a training.

    Attributes:
        cpu: CPU seconds of a step, after the first.
        wall: Seconds of a step.
        losses: Of all steps.
        peak: Memory at the most, beyond what the process held with the models loaded, in MB.
    """

    cpu: float
    wall: float
    losses: list[float]
    peak: float


def measure(case: Case, way: str, folder: Path) -> Measured:
    """Train, and tell how long a step took."""
    with nullcontext() if way == "trl" else freed_memory_kept():
        return measure_here(case, way, folder)


def measure_here(case: Case, way: str, folder: Path) -> Measured:
    """The same, in memory as it is."""
    trainer = theirs(case, folder) if way == "trl" else ours(case, way, folder)
    clock, losses = Clock(), []
    trainer.add_callback(clock)
    step = trainer.training_step

    def seen(*given: Any) -> Any:
        loss = step(*given)
        losses.append(float(loss))
        return loss

    trainer.training_step = seen
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    # What came before may have had a higher peak: start from here.
    Path("/proc/self/clear_refs").write_text("5")
    trainer.train()
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    (cpu, wall), (last_cpu, last_wall) = clock.ends[WARM_UP - 1], clock.ends[-1]
    steps = len(clock.ends) - WARM_UP
    return Measured(
        cpu=(last_cpu - cpu) / steps,
        wall=(last_wall - wall) / steps,
        losses=losses,
        peak=(peak - resident) / 1e6,
    )


def build_seconds(case: Case, folder: Path) -> float:
    """CPU seconds of building a cache for as many tokens as a step has."""
    teacher = case.teacher()
    with freed_memory_kept():
        started = time.process_time()
        cache_of(case, folder, lambda: teacher)
        return (time.process_time() - started) / case.steps


def flops_per_second(case: Case) -> float:
    """What products with the head reach here."""
    left = torch.ones(case.tokens, WIDTH)
    right = torch.ones(WIDTH, VOCABULARIES[case.model])
    taken = []
    for _ in range(4):
        started = time.process_time()
        left @ right
        taken.append(time.process_time() - started)
    return 2 * left.shape[0] * right.numel() / median(taken[1:])


def floor(case: Case, way: str) -> float:
    """Operations of the products that a step of ours cannot do without."""
    rows = case.tokens * (1 - case.masked)
    backward = 4 if case.what == "full" else 2
    head = WIDTH * VOCABULARIES[case.model]
    body = LAYERS * (4 * WIDTH**2 + 3 * WIDTH * INNER)
    factor = 2 + backward + (2 if way == "live" else 0)
    return factor * (rows * head + case.tokens * body)


def alone(work: Callable[..., Any], *given: Any) -> Any:
    """Do something in a process of its own."""
    # Forked: libraries take longer to import than many a training here.
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(work, given)


def same_losses(one: list[float], other: list[float]) -> None:
    """Refuse to go on unless both sides train the same."""
    apart = [abs(a - b) / abs(a) for a, b in zip(one, other, strict=True)]
    if apart[0] > FIRST or max(apart) > LATER:
        raise SystemExit(f"not the same training: losses of trl {one}, ours {other}")


def gate(options: argparse.Namespace) -> None:
    """See that both sides have the same losses for 20 steps."""
    for what in options.what:
        case = Case(model="tiny", what=what, masked=0.5, tokens=options.tokens // 2, steps=20)
        with tempfile.TemporaryDirectory() as folder:
            one, other = (alone(measure, case, way, Path(folder)) for way in ("trl", "live"))
        same_losses(one.losses, other.losses)
        apart = [abs(a - b) / a for a, b in zip(one.losses, other.losses, strict=True)]
        print(
            f"{what}: loss {one.losses[0]:.4f} to {one.losses[-1]:.4f} in 20 steps; ours differs"
            f" by {apart[0]:.1e} in the first step and {max(apart):.1e} at most"
        )


def compare(case: Case, pairs: int) -> None:
    """Print a line about a case."""
    seen: dict[str, list[Measured]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        building = alone(build_seconds, case, Path(folder))
        for _ in range(pairs):
            for way, found in seen.items():
                found.append(alone(measure, case, way, Path(folder)))
            same_losses(seen["trl"][-1].losses, seen["live"][-1].losses)
    cpu = {way: median(each.cpu for each in found) for way, found in seen.items()}
    peak = {way: median(each.peak for each in found) for way, found in seen.items()}
    rate = alone(flops_per_second, case)
    floors = [floor(case, way) / rate / cpu[way] for way in ("live", "cached")]
    per_second = "  ".join(f"{case.tokens / cpu[way]:6.0f}" for way in WAYS)
    print(
        f"{case.model}  {case.what}  {case.masked:4.0%}  {per_second}"
        f"  {ratio(seen, 'trl', 'live')}  {ratio(seen, 'live', 'cached')}"
        f"  {floors[0]:5.0%} {floors[1]:5.0%}  " + " ".join(f"{peak[way]:5.0f}" for way in WAYS),
        f" {case.tokens / building:6.0f}  {building / (cpu['live'] - cpu['cached']):5.1f}",
        flush=True,
    )


def ratio(seen: dict[str, list[Measured]], slow: str, fast: str) -> str:
    """How much faster one way is than another: CPU with its range, and wall-clock."""
    pairs = list(zip(seen[slow], seen[fast], strict=True))
    cpu, wall = [a.cpu / b.cpu for a, b in pairs], [a.wall / b.wall for a, b in pairs]
    return f"{median(cpu):.2f} ({min(cpu):.2f} to {max(cpu):.2f}) {median(wall):.2f}"


def main() -> None:
    """Check that both sides train the same, then print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peers", required=True, help="folder of packages that has trl")
    parser.add_argument("--models", nargs="+", choices=VOCABULARIES, default=list(VOCABULARIES))
    parser.add_argument("--what", nargs="+", choices=("full", "lora"), default=["full", "lora"])
    parser.add_argument("--masked", nargs="+", type=float, default=MASKED)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--steps", type=int, default=2, help="that are timed")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    sys.path.append(options.peers)
    logging.disable(logging.WARNING)
    import trl.experimental.gkd

    print(f"trl {trl.__version__}, torch {torch.__version__}")
    gate(options)
    print(
        "model what masked  tok/s: trl live cached  live over trl (range) wall  cached over live"
        " (range) wall  floor live cached  extra peak MB: trl live cached  build tok/s  break-even"
    )
    for model in options.models:
        for what in options.what:
            for masked in options.masked:
                case = Case(
                    model=model,
                    what=what,
                    masked=masked,
                    tokens=options.tokens,
                    steps=options.steps + WARM_UP,
                )
                compare(case, options.pairs)


if __name__ == "__main__":
    main()
