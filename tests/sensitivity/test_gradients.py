"""Promise: gradient statistics are those of a naive loop over texts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

from evomerge.sensitivity.calibration import Calibration, Prompted
from evomerge.sensitivity.gradients import fisher, loss, sensitivity

if TYPE_CHECKING:
    from evomerge.sensitivity.calibration import Document


@pytest.fixture
def texts(live: tuple[Any, Any], calibration: Calibration) -> list[Document]:
    return calibration.documents(live[1])


def naive_gradients(model: Any, text: Document) -> dict[str, torch.Tensor]:
    """Gradients of transformers' own loss."""
    model.requires_grad_(True)
    model.zero_grad()
    model(input_ids=text.ids[None], labels=text.ids[None]).loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.requires_grad_(False)
    return found


def test_the_loss_is_transformers_own(live: tuple[Any, Any], texts: list[Document]) -> None:
    model, _ = live
    for text in texts:
        expected = model(input_ids=text.ids[None], labels=text.ids[None]).loss
        assert float(loss(model, text)) == pytest.approx(float(expected), rel=1e-6)


def test_of_a_text_with_a_prompt_only_the_completion_counts(live: tuple[Any, Any]) -> None:
    model, tokenizer = live
    calibration = Calibration(texts=(Prompted("red ", "cat"),))
    (text,) = calibration.documents(tokenizer)
    ids = tokenizer("red cat")["input_ids"]
    with torch.no_grad():
        chances = model(input_ids=torch.tensor([ids])).logits[0].softmax(dim=-1)
    # A token is a byte: "cat" is tokens 4, 5 and 6, each predicted at the one before.
    product = chances[3, ids[4]] * chances[4, ids[5]] * chances[5, ids[6]]
    assert float(loss(model, text)) == pytest.approx(-math.log(float(product)) / 3, rel=1e-5)


def test_fisher_is_the_mean_of_squared_gradients(
    live: tuple[Any, Any], texts: list[Document]
) -> None:
    model, _ = live
    gradients = [naive_gradients(model, text) for text in texts]
    names = list(gradients[0])
    found = fisher(model, names, texts)
    for name in names:
        expected = torch.stack([each[name] ** 2 for each in gradients]).mean(dim=0)
        assert expected.max() > 0
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-9)


def test_sensitivity_is_the_mean_of_sums_of_weight_times_gradient(
    live: tuple[Any, Any], texts: list[Document]
) -> None:
    model, _ = live
    gradients = [naive_gradients(model, text) for text in texts]
    parameters = dict(model.named_parameters())
    found = sensitivity(model, list(parameters), texts)
    for name, parameter in parameters.items():
        sums = [float((parameter * each[name]).abs().sum()) for each in gradients]
        assert float(found[name]) == pytest.approx(sum(sums) / len(sums), rel=1e-4)


def test_parameters_measured_apart_give_what_they_give_together(
    live: tuple[Any, Any], texts: list[Document]
) -> None:
    model, _ = live
    names = [name for name, _ in model.named_parameters()]
    together = fisher(model, names, texts)
    for name in (names[0], names[-1]):
        torch.testing.assert_close(fisher(model, [name], texts)[name], together[name])


def test_the_model_is_left_as_it_was(live: tuple[Any, Any], texts: list[Document]) -> None:
    model, _ = live
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    fisher(model, list(before), texts)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
        assert not parameter.requires_grad
