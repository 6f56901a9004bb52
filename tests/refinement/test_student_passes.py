"""Promise: what a pass teaches follows from its texts, not from where they stand in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_architectures import SIZES, build
from tiny_heads import close
from torch.optim.optimizer import register_optimizer_step_pre_hook

from evomerge.recipe.distillation import DistillationLoss
from evomerge.recipe.refine import Training
from evomerge.refinement.predictions.kept import top_k
from evomerge.refinement.predictions.targets import Targets, TargetVocabulary, row_by_row
from evomerge.refinement.texts.packing import Pack
from evomerge.refinement.texts.sequences import Sequence
from evomerge.refinement.training.pass_loss import loss_of
from evomerge.refinement.training.passes import Passes
from evomerge.refinement.training.student import Student
from evomerge.refinement.training.trainer import (
    EarlyStopping,
    RefineTrainer,
    arguments_of,
    training_losses,
)

if TYPE_CHECKING:
    from collections.abc import Sequence as Several
    from pathlib import Path

    from torch import Tensor

TOKENS = SIZES["vocab_size"]
ALL = TargetVocabulary(size=TOKENS, to_student=torch.arange(TOKENS))
LOSSES = ["cross entropy", "top_k_kl"]


def text(index: int, length: int = 7) -> Sequence:
    """Random tokens, of which about half are supervised, and the last one always."""
    rng = torch.Generator().manual_seed(index)
    supervised = torch.rand(length, generator=rng) < 0.5
    supervised[0], supervised[-1] = False, True
    return Sequence(
        ids=torch.randint(3, TOKENS, (length,), generator=rng), supervised=supervised, index=index
    )


TEXTS = [text(index, 3 + index % 6) for index in range(16)]


def blank(length: int) -> Sequence:
    """Tokens that nothing is learned from, which is what padding is."""
    return Sequence(
        ids=torch.zeros(length, dtype=torch.int64),
        supervised=torch.zeros(length, dtype=torch.bool),
        index=-1,
    )


def predictions(index: int) -> Targets:
    """What is kept of a teacher for a text: four tokens, and the mass of all others."""
    labels = torch.zeros(0, dtype=torch.int64)
    if index >= 0:
        labels = TEXTS[index].ids[TEXTS[index].supervised]
    rng = torch.Generator().manual_seed(100 + index)
    return row_by_row(top_k(2 * torch.randn(len(labels), TOKENS, generator=rng), labels, 4))


def student(loss: str) -> Student:
    """A tiny Llama that learns from the texts alone, or from the teacher too."""
    model = build("LlamaForCausalLM", "LlamaConfig", SIZES | {"initializer_range": 0.3})
    return Student(model, loss_of(DistillationLoss(), [ALL] if loss == "top_k_kl" else []))


def passes(loss: str, each: Several[Several[Pack]]) -> Passes:
    return Passes(each, [predictions] if loss == "top_k_kl" else [])


def learned(loss: str, *packs: Pack) -> list[Tensor]:
    """The loss of one pass, and the gradients of all weights."""
    found = student(loss)
    value = found(**passes(loss, [packs])[0])["loss"]
    return [value.detach(), *torch.autograd.grad(value, list(found.model.parameters()))]


@pytest.mark.parametrize("loss", LOSSES)
@given(
    number=st.integers(0, 15), left=st.integers(1, 9), right=st.integers(1, 9), other=st.booleans()
)
@settings(max_examples=15)
def test_neither_padding_nor_the_side_that_it_is_on_changes_what_is_learned(
    loss: str, number: int, left: int, right: int, other: bool
) -> None:
    own = TEXTS[number]
    alone = learned(loss, Pack(sequences=(own,)))
    longer = Pack(sequences=(blank(len(own) + right),))
    for packs in (
        [Pack(sequences=(own, blank(right)))],
        [Pack(sequences=(blank(left), own))],
        [Pack(sequences=(blank(left), own, blank(right)))],
        # Padded by what lays passes out, because the other row is longer.
        [Pack(sequences=(own,)), longer] if other else [longer, Pack(sequences=(own,))],
    ):
        found = learned(loss, *packs)
        assert all(close(*each) for each in zip(found, alone, strict=True))


@pytest.mark.parametrize("loss", LOSSES)
@given(first=st.integers(0, 15), second=st.integers(0, 15))
@settings(max_examples=10)
def test_texts_teach_the_same_in_any_order_of_one_row_and_in_rows_of_their_own(
    loss: str, first: int, second: int
) -> None:
    one, other = TEXTS[first], TEXTS[second]
    apart = learned(loss, Pack(sequences=(one,)), Pack(sequences=(other,)))
    for packed in ((one, other), (other, one)):
        found = learned(loss, Pack(sequences=packed))
        assert all(close(*each) for each in zip(found, apart, strict=True))


@pytest.mark.parametrize("loss", LOSSES)
@given(choice=st.floats(0, 0.999), other=st.integers(0, TOKENS - 1))
@settings(max_examples=30)
def test_a_label_changes_the_gradient_of_the_place_before_it_alone(
    loss: str, choice: float, other: int
) -> None:
    packs = [Pack(sequences=tuple(TEXTS[:3])), Pack(sequences=tuple(TEXTS[3:5]))]
    read = passes(loss, [packs])[0]
    longest = max(map(len, packs))
    supervised = [
        row * longest + place
        for row, pack in enumerate(packs)
        for place, wanted in enumerate(torch.cat([s.supervised for s in pack.sequences]).tolist())
        if wanted
    ]
    number = int(choice * len(supervised))
    changed = read["labels"].clone()
    changed[number] = (changed[number] + 1 + other) % TOKENS
    found = student(loss)
    seen: list[Tensor] = []
    hook = found.model.base_model.register_forward_hook(
        lambda _module, _inputs, output: seen.append(output.last_hidden_state)
    )
    gradients = []
    for labels in (read["labels"], changed):
        value = found(**read | {"labels": labels})["loss"]
        gradients.append(torch.autograd.grad(value, seen[-1])[0].flatten(0, 1))
    hook.remove()
    differing = (gradients[0] != gradients[1]).any(-1).nonzero()[:, 0].tolist()
    same = bool((changed == read["labels"]).all())
    assert differing == ([] if same else [supervised[number] - 1])


def trained(loss: str, cut: list[int], folder: Path) -> tuple[list[float], list[list[Tensor]]]:
    """The losses of two steps of eight texts, and the gradients that they were taken with."""
    each, start = [], 0
    for size in cut * 2:
        each.append([Pack(sequences=(own,)) for own in TEXTS[start : start + size]])
        start += size
    how = Training(what="full", batch_tokens=64 * len(cut), pass_tokens=64, checkpoints=1)
    arguments = arguments_of(how, folder, rate=1e-3, passes=len(each), validated=False, cpu=True)
    found = student(loss)
    stopping = EarlyStopping(folder, 3, lambda *_: None, lambda: False)
    trainer = RefineTrainer(found, arguments, passes(loss, each), None, stopping)
    taken: list[list[Tensor]] = []

    def note(*_: Any) -> None:
        taken.append([p.grad.clone() for p in found.model.parameters() if p.grad is not None])

    hook = register_optimizer_step_pre_hook(note)
    try:
        trainer.fit()
    finally:
        hook.remove()
    return training_losses(trainer.state.log_history), taken


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_how_a_step_is_cut_into_passes_changes_neither_its_loss_nor_its_gradients(
    loss: str, tmp_path: Path
) -> None:
    losses, gradients = trained(loss, [8], tmp_path / "whole")
    assert len(losses) == len(gradients) == 2
    for number, cut in enumerate([[2, 2, 2, 2], [3, 1, 4], [1, 7]]):
        found, taken = trained(loss, cut, tmp_path / str(number))
        assert found == pytest.approx(losses, rel=1e-5)
        for step, expected in zip(taken, gradients, strict=True):
            assert all(close(*each, 2e-5) for each in zip(step, expected, strict=True))
