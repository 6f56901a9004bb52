"""Promise: a broken model costs a few tokens, and a sound one is never taken for broken."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch

from evomerge.errors import EvaluationError
from evomerge.evaluation.evaluator import ResidentEvaluator
from evomerge.evaluation.hf import HfBackend
from evomerge.evaluation.items import TaskItems
from evomerge.evaluation.probe import LENGTH, TEXTS, Probe
from evomerge.evaluation.tasks import TaskSpec
from evomerge.live_model import load_model

if TYPE_CHECKING:
    from pathlib import Path

PROMPTS = [tuple(range(start, start + 40)) for start in (3, 3, 9, 17, 21, 5)]


@pytest.fixture
def loaded(family: Path) -> tuple[Any, Any]:
    model, tokenizer = load_model(family / "base", torch.float32, torch.device("cpu"))
    return copy.deepcopy(model), tokenizer


def blow_up(model: Any) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(20).add_(
                torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
            )


def test_a_few_different_beginnings_are_read(loaded: tuple[Any, Any]) -> None:
    read: list[torch.Tensor] = []
    loaded[0].register_forward_pre_hook(
        lambda _, __, named: read.append(named["input_ids"]), with_kwargs=True
    )
    Probe(PROMPTS, HfBackend(*loaded, 512)).check()
    assert sum(ids.shape[0] for ids in read) == 2 * TEXTS
    assert max(ids.shape[1] for ids in read) < LENGTH


def test_the_model_it_began_with_passes(loaded: tuple[Any, Any]) -> None:
    blow_up(loaded[0])  # however bad it is
    Probe(PROMPTS, HfBackend(*loaded, 512)).check()


def test_a_model_that_predicts_worse_than_guessing_is_refused(loaded: tuple[Any, Any]) -> None:
    probe = Probe(PROMPTS, HfBackend(*loaded, 512))
    blow_up(loaded[0])
    with pytest.raises(EvaluationError, match=r"worse than guessing does: .* nats per token"):
        probe.check()


def test_a_model_that_guesses_passes(loaded: tuple[Any, Any]) -> None:
    probe = Probe(PROMPTS, HfBackend(*loaded, 512))
    with torch.no_grad():
        loaded[0].get_output_embeddings().weight.zero_()
    probe.check()


def test_without_prompts_nothing_is_read(loaded: tuple[Any, Any]) -> None:
    Probe([(), (1,)], HfBackend(*loaded, 512)).check()


def test_a_broken_model_is_not_scored_on_the_tasks(loaded: tuple[Any, Any], family: Path) -> None:
    spec = TaskSpec(name="tiny_choice", include_path=str(family / "tasks"))
    items = TaskItems(task=spec.name, search=tuple(range(20)), held_out=(20,))
    evaluator = ResidentEvaluator(HfBackend(*loaded, 512), [spec], [items])
    evaluator.evaluate("search")
    blow_up(loaded[0])
    with pytest.raises(EvaluationError, match="worse than guessing"):
        evaluator.evaluate("search")
    assert evaluator.forward_s == 0
    evaluator.evaluate("held_out")  # asked for by name, so it is answered
