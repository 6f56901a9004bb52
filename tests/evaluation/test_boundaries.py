"""Promise: layers that are as before do not run again, and nothing else can tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from evaluated_models import MODELS, VOCABULARY, llama

from evomerge.evaluation.passes.boundaries import LayerBoundaries
from evomerge.evaluation.passes.forward import Forward
from evomerge.evaluation.passes.generation import Generation
from evomerge.evaluation.passes.likelihood import LikelihoodPlan, LogLikelihood
from evomerge.evaluation.passes.tokens import Continuation, Prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LAYERS = 5
DEEP = {"num_hidden_layers": LAYERS}
SHARED = tuple(range(1, 30)) * 3


def changed(model: Any, layer: int, seed: int) -> None:
    """Give a layer other weights."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in layers(model)[layer].parameters():
            weight.copy_(torch.randn(weight.shape, generator=rng) * 0.5)


def layers(model: Any) -> Any:
    return model.base_model.layers if hasattr(model.base_model, "layers") else model.base_model.h


def plan() -> LikelihoodPlan:
    """Questions of one and of several answers, with and without a long common beginning."""
    contexts = [(1, 2, 3), (4, 5), (*SHARED, 2, 9), (*SHARED, 7), (*SHARED, 7, 7, 8)]
    answers = [(3, 4), (5,), (6, 7, 8)]
    wanted = [Continuation(inputs=(c + a)[:-1], target=a) for c in contexts for a in answers]
    return LikelihoodPlan(wanted, sees_all=True, batch_tokens=150, pad=0)


def watch(model: Any) -> list[int]:
    """The numbers of the layers that are run from now on."""
    numbers: list[int] = []
    for number, layer in enumerate(layers(model)):
        attention = layer.self_attn if hasattr(layer, "self_attn") else layer.attn
        attention.register_forward_hook(lambda *_, number=number: numbers.append(number))
    return numbers


def evaluate(forward: Forward, asked: LikelihoodPlan) -> list[LogLikelihood]:
    forward.boundaries.look()
    return asked.run(forward)


def deep(name: str) -> Any:
    return llama(max_position_embeddings=256, **DEEP) if name == "llama" else MODELS[name]()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_results_are_those_of_a_model_that_is_run_from_its_beginning(name: str) -> None:
    model = deep(name)
    forward, asked, last = Forward(model), plan_of(name), len(layers(model)) - 1
    for seed in range(6):
        changed(model, last if seed % 3 else 0, seed)
        assert evaluate(forward, asked) == evaluate(Forward(model), asked)


def plan_of(name: str) -> LikelihoodPlan:
    if name == "llama":
        return plan()
    wanted = [Continuation(inputs=(1, 2, n), target=(n, 4)) for n in range(3, 9)]
    return LikelihoodPlan(wanted, sees_all=True, batch_tokens=20, pad=0)


def test_layers_below_a_change_that_was_seen_before_do_not_run() -> None:
    model, asked = deep("llama"), plan()
    forward, numbers = Forward(model), watch(model)
    for seed in range(4):
        changed(model, 3, seed)
        numbers.clear()
        evaluate(forward, asked)
        if seed < 2:  # the first is compared with nothing, the second shows where they part
            assert set(numbers) == set(range(LAYERS))
        else:
            assert set(numbers) == {3, 4}


def test_other_passes_over_the_same_boundary_are_kept_too() -> None:
    model, usual, other = deep("llama"), plan(), plan()
    forward, numbers = Forward(model), watch(model)
    for seed in range(5):
        changed(model, 3, seed)
        evaluate(forward, usual)
        numbers.clear()
        if seed > 2:  # as finalists meet held-out items
            assert evaluate(forward, other) == evaluate(Forward(model), other)
    assert {0, 1, 2} <= set(numbers)  # those of the fresh one
    numbers.clear()
    evaluate(forward, other)
    assert set(numbers) == {LAYERS - 1}


def test_a_model_whose_layers_need_others_runs_from_its_beginning() -> None:
    model, asked = deep("llama"), plan()
    forward, numbers = Forward(model), watch(model)
    forward.boundaries = LayerBoundaries(model, alone=False)
    for seed in range(4):
        changed(model, 3, seed)
        numbers.clear()
        evaluate(forward, asked)
        assert set(numbers) == set(range(LAYERS))


def test_equal_weights_that_were_written_anew_are_equal() -> None:
    model, asked = deep("llama"), plan()
    forward, numbers = Forward(model), watch(model)
    for _ in range(3):
        for weight in model.parameters():
            weight.data = weight.data.clone()
        numbers.clear()
        evaluate(forward, asked)
    assert set(numbers) == {LAYERS - 1}  # where all are equal, only the last one runs


def test_an_embedding_that_changes_lets_nothing_be_used_again() -> None:
    model, asked = deep("llama"), plan()
    forward, numbers = Forward(model), watch(model)
    for number in range(3):
        with torch.no_grad():
            model.get_input_embeddings().weight[1] += number + 1
        numbers.clear()
        evaluate(forward, asked)
        assert set(numbers) == set(range(LAYERS))


def test_what_is_kept_fits_its_room() -> None:
    model, asked = deep("llama"), plan()
    forward = Forward(model)
    forward.boundaries._most_bytes = 0
    for seed in range(4):
        changed(model, 3, seed)
        assert evaluate(forward, asked) == evaluate(Forward(model), asked)
    assert not forward.boundaries._boundaries


class Numbers:
    """Answers as the numbers of their tokens."""

    pad_id = 0

    def answer(self, tokens: Sequence[int], until: Sequence[str]) -> str:
        return " ".join(map(str, tokens))

    def ended(self, answers: Sequence[Any]) -> list[bool]:
        return [False] * len(answers)


@pytest.mark.parametrize("make", [lambda: llama(**DEEP), MODELS["gpt2"]], ids=["llama", "gpt2"])
def test_answers_that_start_higher_up_are_the_same(make: Callable[[], Any]) -> None:
    model = make()
    forward, last = Forward(model), len(layers(model)) - 1
    asked = [
        Prompt(inputs=tuple(range(n, n + 4)), until=(), max_new_tokens=9)
        for n in range(1, VOCABULARY - 4, 3)
    ]
    for seed in range(4):
        changed(model, last, seed)
        answers = []
        for each in (forward, Forward(model)):
            each.boundaries.look()
            answers.append(Generation(each, Numbers(), 60).run(asked))  # type: ignore[arg-type]
        assert answers[0] == answers[1]
    assert forward.boundaries.skipped
