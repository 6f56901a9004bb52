"""The two sides of `distillation.py`: a trainer of ours and TRL's GKD trainer of the same case."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback

from evomerge.operators.randomness import generator
from evomerge.recipe.distillation import DistillationLoss
from evomerge.recipe.refine import Training
from evomerge.refinement.cache.key import CacheKey
from evomerge.refinement.heads import head_of, last_hidden_states
from evomerge.refinement.losses.divergence import divergence
from evomerge.refinement.predictions.kept import Kept
from evomerge.refinement.predictions.targets import TargetVocabulary, row_by_row
from evomerge.refinement.teachers.build import build
from evomerge.refinement.teachers.live import logits_of
from evomerge.refinement.texts.sequences import Sequence
from evomerge.refinement.training.low_rank import attach
from evomerge.refinement.training.pass_loss import loss_of
from evomerge.refinement.training.passes import Passes, plan_passes
from evomerge.refinement.training.student import Student
from evomerge.refinement.training.trainer import EarlyStopping, RefineTrainer, arguments_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor
    from transformers import Trainer, TrainingArguments

    from evomerge.refinement.cache.teacher_cache import TeacherCache

VOCABULARIES = {"tiny": 32_000, "wide": 151_936}
LENGTH, WIDTH, LAYERS, INNER = 128, 256, 4, 704
RATE = 3e-4


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

    def arguments(self, folder: Path) -> TrainingArguments:
        """What transformers' Trainer is told, on both sides."""
        return arguments_of(
            self.settings(), folder, rate=RATE, passes=self.steps, validated=False, cpu=True
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


class LiveStudent(Student):
    """A student whose teacher runs beside it."""

    def __init__(self, model: LlamaForCausalLM, teacher: LlamaForCausalLM) -> None:
        head = head_of(teacher)
        super().__init__(model, lambda given: divergence(logits_of(head, given["teacher"])))
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
    kept = Kept(vocabulary=VOCABULARIES[case.model])
    key = CacheKey(teacher="", tokenizer="", template="", data="", precision="float32", kept=kept)
    sequences = sorted(case.sequences(), key=lambda each: each.index)
    return build(folder, key, sequences, load)


def ours(case: Case, way: str, folder: Path) -> Trainer:
    """Our trainer, with a teacher beside the student or in a cache."""
    arguments = case.arguments(folder)
    arguments.save_strategy = "no"
    stopping = EarlyStopping(folder, 1, lambda *_: None, lambda: False)
    if way == "live":
        student = LiveStudent(case.student(), case.teacher())
        return RefineTrainer(student, arguments, Passes(case.passes()), None, stopping)
    cache = cache_of(case, folder, case.teacher)
    size = VOCABULARIES[case.model]
    vocabulary = TargetVocabulary(size=size, to_student=torch.arange(size))
    loss = loss_of(DistillationLoss(), [vocabulary])
    passes = Passes(case.passes(), [lambda index: row_by_row(cache.rows(index))])
    return RefineTrainer(Student(case.student(), loss), arguments, passes, None, stopping)


def theirs(case: Case, folder: Path) -> Trainer:
    """TRL's trainer with the same arguments."""
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    mine = case.arguments(folder)
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
