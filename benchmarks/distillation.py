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
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, TrainerCallback

from evomerge.operators.randomness import generator
from evomerge.recipe.refine import DistillationLoss, Training
from evomerge.refinement.build import build
from evomerge.refinement.cache_key import CacheKey
from evomerge.refinement.heads import head_of, last_hidden_states
from evomerge.refinement.kept_memory import freed_memory_kept
from evomerge.refinement.live_teacher import logits_of
from evomerge.refinement.losses.divergence import divergence
from evomerge.refinement.low_rank import attach
from evomerge.refinement.passes import Passes, plan_passes
from evomerge.refinement.sequences import Sequence
from evomerge.refinement.student import Student
from evomerge.refinement.targets import loss_of
from evomerge.refinement.teacher import Target
from evomerge.refinement.trainer import RefineTrainer, arguments_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from transformers import Trainer

    from evomerge.refinement.cache import TeacherCache

VOCABULARIES = {"tiny": 32_000, "wide": 151_936}
MASKED = (0.0, 0.5, 0.8)
WAYS = ("trl", "live", "cached")
LENGTH, WIDTH, LAYERS, INNER = 128, 256, 4, 704
WARM_UP = 1
RATE = 3e-4
FIRST, LATER = 1e-5, 1e-3
"""By how much the loss of the first step may differ between trl and live, and of later ones."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A training of a few steps.

    Attributes:
        model: A name of `VOCABULARIES`.
        what: What is trained, `full` or `lora`.
        masked: Share of each sequence that is a prompt.
        tokens: Of a step.
        steps: How many.
    """

    model: str
    what: str
    masked: float
    tokens: int
    steps: int

    def settings(self) -> Training:
        """As a recipe would have them."""
        return Training.model_validate(
            {
                "what": self.what,
                "batch_tokens": self.tokens,
                "pass_tokens": self.tokens,
                "warmup": 0.0,
            }
        )

    def passes(self) -> list[Any]:
        """Packs of random tokens in the order in which they are read."""
        count = self.steps * self.tokens // LENGTH
        shape = count, LENGTH
        ids = torch.randint(VOCABULARIES[self.model], shape, generator=generator(0, "ids"))
        supervised = torch.arange(LENGTH) >= max(1, round(self.masked * LENGTH))
        sequences = [
            Sequence(ids=row, supervised=supervised, index=index) for index, row in enumerate(ids)
        ]
        return plan_passes(sequences, self.settings(), packed=True, epochs=1)

    def sequences(self) -> list[Sequence]:
        """What is read, in order."""
        return [each for packs in self.passes() for pack in packs for each in pack.sequences]

    def student(self) -> LlamaForCausalLM:
        """The student, what does not train of it frozen."""
        model = llama(VOCABULARIES[self.model], "student")
        if self.what == "lora":
            attach(model, rank=16, alpha=32, layers=set(range(LAYERS)), seed=0)
        return model

    def teacher(self) -> LlamaForCausalLM:
        """Another model."""
        teacher = llama(VOCABULARIES[self.model], "teacher")
        return teacher.eval().requires_grad_(requires_grad=False)


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


def llama(vocabulary: int, name: str) -> LlamaForCausalLM:
    """A Llama with random weights, the same for the same name."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=True,
        # Logits with a standard deviation of 1.6, so that teacher and student differ.
        initializer_range=0.1,
        attn_implementation="sdpa",
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.to_empty(device="cpu")
    model.tie_weights()
    for tensor, weight in model.named_parameters():
        if weight.ndim > 1:
            weight.data.normal_(0, 0.1, generator=generator(0, name, tensor))
        else:
            weight.data.fill_(1)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model


class Taught(Student):
    """A student whose teacher runs beside it."""

    def __init__(self, model: LlamaForCausalLM, teacher: LlamaForCausalLM) -> None:
        head = head_of(teacher)
        super().__init__(model, lambda _, given: divergence(logits_of(head, given["teacher"])))
        # No module of this one: nothing of it is trained.
        self._read = partial(last_hidden_states, teacher)

    def forward(self, *, ids: Tensor, positions: Tensor, **given: Any) -> dict[str, Tensor]:
        """The loss of a pass."""
        with torch.no_grad():
            hidden = self._read(input_ids=ids, position_ids=positions, use_cache=False)
        rows = hidden.flatten(0, 1)[given["predicting"]]
        return super().forward(ids=ids, positions=positions, **given, teacher=rows)


def cache_of(case: Case, folder: Path, load: Callable[[], Any]) -> TeacherCache:
    """What the teacher predicts, from a cache that is built if it is not there."""
    target = Target(vocabulary=VOCABULARIES[case.model])
    key = CacheKey(
        teacher="", tokenizer="", template="", data="", precision="float32", target=target
    )
    sequences = sorted(case.sequences(), key=lambda each: each.index)
    return build(folder, key, sequences, load)


def ours(case: Case, way: str, folder: Path) -> Trainer:
    """Our trainer, with a teacher beside the student or in a cache."""
    arguments = arguments_of(
        case.settings(), folder, rate=RATE, passes=case.steps, validated=False
    )
    arguments.save_strategy = "no"
    if way == "live":
        return RefineTrainer(
            Taught(case.student(), case.teacher()), arguments, Passes(case.passes()), None
        )
    cache = cache_of(case, folder, case.teacher)
    loss = loss_of(DistillationLoss(), VOCABULARIES[case.model], taught=True)
    passes = Passes(case.passes(), cache.rows)
    return RefineTrainer(Student(case.student(), loss), arguments, passes, None)


def theirs(case: Case, folder: Path) -> Trainer:
    """TRL's trainer with the same arguments."""
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    mine = arguments_of(case.settings(), folder, rate=RATE, passes=case.steps, validated=False)
    same = (
        "output_dir num_train_epochs learning_rate lr_scheduler_type lr_scheduler_kwargs"
        " warmup_steps adam_beta1 adam_beta2 adam_epsilon weight_decay max_grad_norm optim"
        " logging_steps seed disable_tqdm report_to use_cpu remove_unused_columns"
        " train_sampling_strategy dataloader_pin_memory"
    )
    arguments = GKDConfig(
        **{name: getattr(mine, name) for name in same.split()},
        per_device_train_batch_size=case.tokens // LENGTH,
        save_strategy="no",
        bf16=False,
        gradient_checkpointing=False,
        use_liger_kernel=False,
        lmbda=0.0,
        beta=0.0,
        max_length=None,
    )
    pad = "<pad>"
    words = Tokenizer(WordLevel({pad: 0}, unk_token=pad))
    trainer = GKDTrainer(
        case.student(),
        case.teacher(),
        arguments,
        data_collator=collate,
        train_dataset=Dataset.from_list([as_labels(each) for each in case.sequences()]),
        processing_class=PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token=pad, eos_token=pad
        ),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def as_labels(sequence: Sequence) -> dict[str, list[int]]:
    """A sequence as TRL reads it."""
    labels = torch.where(sequence.supervised, sequence.ids, -100)
    return {"input_ids": sequence.ids.tolist(), "labels": labels.tolist()}


def collate(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    """A batch of sequences of one length."""
    batch = {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
    return batch | {"attention_mask": torch.ones_like(batch["input_ids"])}


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
