"""LoRA training of the top layers of a model whose lower layers run once per example."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from items import TERMINATOR
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from items import Item
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPlan:
    """How an expert is trained.

    Attributes:
        layers: How many layers, counted from the top, are trained.
        rank: The rank of each update.
        alpha: The update is multiplied by `alpha / rank`.
        epochs: How often each example is seen.
        batch_size: Examples a step.
        learning_rate: At the first step; it falls linearly to 0.
        seed: Seeds the initial values and the order of the examples.
    """

    layers: int = 10
    rank: int = 8
    alpha: int = 16
    epochs: int = 2
    batch_size: int = 12
    learning_rate: float = 3e-3
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """Token ids of one item, and how many of the last ones are its answer."""

    tokens: tuple[int, ...]
    answer_length: int


class LowRank(nn.Module):
    """A linear layer with a trainable low-rank update."""

    def __init__(self, linear: nn.Linear, plan: TrainingPlan, rng: torch.Generator) -> None:
        super().__init__()
        self.linear = linear
        self.scale = plan.alpha / plan.rank
        bound = 1 / math.sqrt(linear.in_features)
        down = torch.empty(plan.rank, linear.in_features).uniform_(-bound, bound, generator=rng)
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(torch.zeros(linear.out_features, plan.rank))

    def forward(self, inputs: Tensor) -> Tensor:
        """The layer's output and the update's."""
        update = functional.linear(functional.linear(inputs, self.down), self.up)
        output: Tensor = self.linear(inputs) + self.scale * update
        return output


def encode(items: Sequence[Item], tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """Tokenizes items as lm-eval will: the question, then a space and the answer.

    Every answer ends with the terminator, by which one that is complete can be told.
    """
    examples = []
    for item in items:
        question = tokenizer(item.question).input_ids
        answer = tokenizer(f" {item.answer}{TERMINATOR}").input_ids
        examples.append(Example(tokens=(*question, *answer), answer_length=len(answer)))
    return examples


class LayerwiseTrainer:
    """Trains several experts on the top layers of one base model.

    Args:
        model: The base model, in float32. Its top layers are changed and restored.
        layers: How many layers, counted from the top, are trained.
    """

    def __init__(self, model: PreTrainedModel, layers: int) -> None:
        self.model = model.eval().requires_grad_(requires_grad=False)
        self.body = model.model
        everything = self.body.layers
        self.first = len(everything) - layers
        self.lower, self.upper = everything[: self.first], everything[self.first :]
        self.norm = self.body.norm

    def lower_activations(self, examples: Sequence[Example], batch_size: int = 32) -> list[Tensor]:
        """What the untrained layers make of each example, shape `(tokens, hidden)`."""
        self.body.layers, self.body.norm = self.lower, nn.Identity()
        order = sorted(range(len(examples)), key=lambda index: len(examples[index].tokens))
        activations: dict[int, Tensor] = {}
        with torch.no_grad():
            for start in range(0, len(order), batch_size):
                batch = order[start : start + batch_size]
                ids = nn.utils.rnn.pad_sequence(
                    [torch.tensor(examples[index].tokens) for index in batch], batch_first=True
                )
                # Padding stands on the right: a causal model's earlier tokens do not see it.
                hidden = self.body(input_ids=ids, use_cache=False).last_hidden_state
                for row, index in enumerate(batch):
                    activations[index] = hidden[row, : len(examples[index].tokens)]
        return [activations[index].clone() for index in range(len(examples))]

    def train(
        self, examples: Sequence[Example], plan: TrainingPlan, rng: torch.Generator
    ) -> dict[str, LowRank]:
        """Trains an expert and leaves the base model as it was.

        Returns:
            The trained updates, by the name of the tensor they belong to.
        """
        activations = self.lower_activations(examples)
        self.body.layers, self.body.norm = self.upper, self.norm
        updates = self._attach(plan, rng)
        weights = [weight for update in updates.values() for weight in (update.down, update.up)]
        optimizer = torch.optim.Adam(weights, lr=plan.learning_rate, betas=(0.9, 0.95))
        steps = plan.epochs * math.ceil(len(examples) / plan.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        for batch in _batches(examples, plan, rng):
            loss = self._loss([activations[i] for i in batch], [examples[i] for i in batch])
            optimizer.zero_grad()
            torch.autograd.backward([loss])
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
        self._detach()
        return updates

    def _loss(self, activations: list[Tensor], examples: list[Example]) -> Tensor:
        hidden = nn.utils.rnn.pad_sequence(activations, batch_first=True)
        hidden = self.body(inputs_embeds=hidden, use_cache=False).last_hidden_state
        # Only the answers are learned, so only they meet the large output layer.
        rows = [
            hidden[row, len(example.tokens) - example.answer_length - 1 : len(example.tokens) - 1]
            for row, example in enumerate(examples)
        ]
        targets = [torch.tensor(example.tokens[-example.answer_length :]) for example in examples]
        return functional.cross_entropy(self.model.lm_head(torch.cat(rows)), torch.cat(targets))

    def _attach(self, plan: TrainingPlan, rng: torch.Generator) -> dict[str, LowRank]:
        updates = {}
        for depth, layer in enumerate(self.upper, start=self.first):
            for path, module in list(layer.named_modules()):
                if isinstance(module, nn.Linear):
                    update = LowRank(module, plan, rng)
                    layer.set_submodule(path, update)
                    updates[f"model.layers.{depth}.{path}.weight"] = update
        return updates

    def _detach(self) -> None:
        for layer in self.upper:
            for path, module in list(layer.named_modules()):
                if isinstance(module, LowRank):
                    layer.set_submodule(path, module.linear)
        self.body.layers = nn.ModuleList([*self.lower, *self.upper])


def _batches(
    examples: Sequence[Example], plan: TrainingPlan, rng: torch.Generator
) -> Iterator[list[int]]:
    """Batches of examples of like length, to pad little, in a random order."""
    for _ in range(plan.epochs):
        order = torch.randperm(len(examples), generator=rng).tolist()
        order.sort(key=lambda index: len(examples[index].tokens))
        size = plan.batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        for number in torch.randperm(len(batches), generator=rng).tolist():
            yield batches[number]
