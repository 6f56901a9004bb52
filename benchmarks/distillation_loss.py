"""What distillation losses cost in chunks, against the same from all logits at once.

    python benchmarks/distillation_loss.py time [--pairs 5]
    python benchmarks/distillation_loss.py memory [--rows 1024 4096] [--dense 512 1024]

Dense is what trainers do: logits of every position, log-softmax of teacher and student, a mask,
and backward by autograd. Chunked sees the supervised rows alone. One thread, float32, random
hidden states.

Time: CPU seconds of forward and backward for a vocabulary of 32,000, 512 positions and width 256,
both ways by turns; medians, and the median ratio of a pair. Memory: the peak of the process beyond
what it held before, for a vocabulary of 151,936 and width 64; every case in a process of its own.
Dense memory grows with the rows: 4,096 need more than most machines have, so it is measured for
fewer unless asked for.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import math
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from evomerge.refinement.heads import Head
from evomerge.refinement.losses.chunked import chunked_loss
from evomerge.refinement.losses.cross_entropy import CrossEntropy
from evomerge.refinement.losses.divergence import divergence
from evomerge.refinement.losses.rows import Weighted
from evomerge.refinement.losses.top_k import TopKDivergence
from evomerge.refinement.predictions.top_k import TopK
from evomerge.refinement.teachers.live import logits_of

if TYPE_CHECKING:
    from torch import Tensor

KEPT = 64
KINDS = ("live", "cached")
"""The forward KL from a live teacher; or 0.9 of a cached one with 64 tokens and 0.1 of labels."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One loss of one batch.

    Attributes:
        hidden: The student's, of all positions.
        of_teacher: The teacher's.
        head: The student's head; it trains or not.
        teachers: The teacher's head.
        targets: What is cached of the teacher.
        labels: At each position.
        supervised: The positions that count.
        kind: One of `KINDS`.
    """

    hidden: Tensor
    of_teacher: Tensor
    head: Head
    teachers: Head
    targets: TopK
    labels: Tensor
    supervised: Tensor
    kind: str

    def chunked(self) -> Tensor:
        """The loss of the supervised rows."""
        rows = self.supervised.nonzero().squeeze(-1)
        hidden, count = self.hidden[rows], len(rows)
        weights = torch.full((count,), 1 / count)
        if self.kind == "live":
            row_loss = divergence(logits_of(self.teachers, self.of_teacher[rows]))
            return chunked_loss(hidden, self.head, row_loss, weights)
        targets = TopK(
            ids=self.targets.ids[rows],
            log_probs=self.targets.log_probs[rows],
            tail=self.targets.tail[rows],
            nll=self.targets.nll[rows],
            vocabulary=self.targets.vocabulary,
        )
        parts = [(0.9, TopKDivergence(targets)), (0.1, CrossEntropy(self.labels[rows]))]
        return chunked_loss(hidden, self.head, Weighted(parts), weights)

    def dense(self) -> Tensor:
        """The same from the logits of all positions."""
        log_p = functional.linear(self.hidden, self.head.weight).log_softmax(-1)
        if self.kind == "live":
            with torch.no_grad():
                log_q = functional.linear(self.of_teacher, self.teachers.weight).log_softmax(-1)
            each = functional.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
        else:
            kept, q = log_p.gather(-1, self.targets.ids), self.targets.log_probs.exp()
            rest, tail = torch.log1p(-kept.exp().sum(-1)), self.targets.tail
            ghost = (q * (self.targets.log_probs - kept)).sum(-1) + tail.exp() * (tail - rest)
            each = 0.9 * ghost - 0.1 * log_p.gather(-1, self.labels[:, None]).squeeze(-1)
        return (each * self.supervised).sum() / self.supervised.sum()


def case(kind: str, shape: tuple[int, int, int], share: float, *, trains: bool) -> Case:
    """A random batch of which a share of the positions is supervised.

    The shape is the number of positions, of tokens, and the width of the hidden states.
    """
    rows, vocabulary, width = shape
    rng = torch.Generator().manual_seed(0)
    scale = 2 / width**0.5
    weight = torch.randn(vocabulary, width, generator=rng) * scale
    hidden, of_teacher = torch.randn(2, rows, width, generator=rng)
    return Case(
        hidden=hidden.requires_grad_(),
        of_teacher=of_teacher,
        head=Head(weight=weight.requires_grad_(trains)),
        teachers=Head(weight=weight.detach().flip(0)),
        targets=TopK(
            ids=torch.randint(vocabulary // KEPT, (rows, KEPT), generator=rng)
            + torch.arange(KEPT) * (vocabulary // KEPT),
            log_probs=torch.randn(rows, KEPT, generator=rng).log_softmax(-1) + math.log(0.99),
            tail=torch.full((rows,), math.log(0.01)),
            nll=torch.zeros(rows),
            vocabulary=vocabulary,
        ),
        labels=torch.randint(vocabulary, (rows,), generator=rng),
        supervised=torch.arange(rows) % 100 < 100 * share,
        kind=kind,
    )


def gradients(made: Case, way: str) -> tuple[float, float]:
    """Loss and the norm of the hidden states' gradient."""
    for leaf in (made.hidden, made.head.weight):
        leaf.grad = None
    loss = getattr(made, way)()
    loss.backward()
    if made.hidden.grad is None:
        raise SystemExit("the loss gives the hidden states no gradient")
    return float(loss.detach()), float(made.hidden.grad.norm())


def measure_time(pairs: int) -> None:
    """Print a line per loss, mask and head."""
    print("loss    supervised  head    dense, s  chunked, s  ratio (min to max)")
    for kind in KINDS:
        for share in (1.0, 0.5):
            for trains in (True, False):
                made = case(kind, (512, 32_000, 256), share, trains=trains)
                values = [gradients(made, way) for way in ("dense", "chunked")]
                for one, other in zip(*values, strict=True):
                    if abs(one - other) > 1e-5 * abs(one):
                        raise SystemExit(f"{kind}: dense {one}, chunked {other}")
                seconds: dict[str, list[float]] = {"dense": [], "chunked": []}
                for _ in range(pairs):
                    for way, taken in seconds.items():
                        start = time.process_time()
                        gradients(made, way)
                        taken.append(time.process_time() - start)
                ratios = [d / c for d, c in zip(*seconds.values(), strict=True)]
                dense, chunked = (median(taken) for taken in seconds.values())
                print(
                    f"{kind:<7} {share:>10.0%}  {'trains' if trains else 'frozen'}  {dense:>8.3f}"
                    f"  {chunked:>10.3f}  {median(ratios):.2f} ({min(ratios):.2f} to"
                    f" {max(ratios):.2f})",
                    flush=True,
                )


def measure_memory(rows: list[int], dense: list[int]) -> None:
    """Print a line per loss, head, way and number of rows."""
    print("loss    head    way      rows  extra peak, MB")
    for kind in KINDS:
        for head in ("trains", "frozen"):
            for way, counts in (("dense", dense), ("chunked", rows)):
                for count in counts:
                    done = subprocess.run(
                        [sys.executable, __file__, "child", kind, head, way, str(count)],
                        capture_output=True,
                        text=True,
                        check=True,
                    )
                    print(
                        f"{kind:<7} {head}  {way:<7} {count:>5}  {done.stdout.strip()}", flush=True
                    )


def child(kind: str, head: str, way: str, rows: int) -> None:
    """Print the extra peak of one case in MB."""
    # So that libraries are loaded, and their buffers made, before anything is measured.
    gradients(case(kind, (16, 64, 64), 1.0, trains=True), way)
    made = case(kind, (rows, 151_936, 64), 1.0, trains=head == "trains")
    resident = Path("/proc/self/statm").read_text().split()[1]
    before = int(resident) * resource.getpagesize()
    # What came before may have had a higher peak: start from here.
    Path("/proc/self/clear_refs").write_text("5")
    gradients(made, way)
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    print(round((peak - before) / 1e6))


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("time").add_argument("--pairs", type=int, default=5)
    memory = commands.add_parser("memory")
    memory.add_argument("--rows", type=int, nargs="+", default=[1024, 4096])
    memory.add_argument("--dense", type=int, nargs="+", default=[512, 1024])
    one = commands.add_parser("child")
    for name in ("kind", "head", "way"):
        one.add_argument(name)
    one.add_argument("rows", type=int)
    options = parser.parse_args()
    if options.command == "time":
        measure_time(options.pairs)
    elif options.command == "memory":
        measure_memory(options.rows, options.dense)
    else:
        child(options.kind, options.head, options.way, options.rows)


if __name__ == "__main__":
    main()
