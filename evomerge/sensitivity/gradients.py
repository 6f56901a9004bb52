"""Statistics from gradients of the language-modelling loss, one text at a time.

Fisher: Matena and Raffel 2021, https://arxiv.org/abs/2111.09832, sec. 3, the empirical diagonal,
with the labels of the text itself. Sensitivity: Liu et al. 2025, https://arxiv.org/abs/2502.12420,
the first-order change of the loss if a weight were zero; its sums over a layer are the paper's
layer sensitivities.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from evomerge.sensitivity.calibration import Document


def fisher(model: Any, names: Sequence[str], texts: Iterable[Document]) -> dict[str, Tensor]:
    """Mean over texts of the squared gradient of the loss.

    Args:
        model: A causal language model of transformers.
        names: The parameters wanted.
        texts: The texts.

    Returns:
        One float32 tensor per name, of the parameter's shape.
    """
    parameters = dict(model.named_parameters())
    sums = {name: torch.zeros_like(parameters[name], dtype=torch.float32) for name in names}

    def add(name: str, _: Tensor, gradient: Tensor) -> None:
        gradient = gradient.float()
        sums[name].addcmul_(gradient, gradient)

    count = _accumulate(model, names, texts, add)
    return {name: total / count for name, total in sums.items()}


def sensitivity(model: Any, names: Sequence[str], texts: Iterable[Document]) -> dict[str, Tensor]:
    """Mean over texts of the sum of |weight x gradient| over a parameter.

    Arguments are those of `fisher`.

    Returns:
        One float32 number per name, shape `()`.
    """
    sums = {name: torch.zeros((), dtype=torch.float64, device=model.device) for name in names}

    def add(name: str, parameter: Tensor, gradient: Tensor) -> None:
        product = parameter.float() * gradient.float()
        sums[name] += product.abs().sum(dtype=torch.float64)

    count = _accumulate(model, names, texts, add)
    return {name: (total / count).float() for name, total in sums.items()}


def loss(model: Any, text: Document) -> Tensor:
    """Mean negative log-likelihood of a text's tokens that count, given all before them."""
    ids = text.ids.to(model.device)
    logits = model(input_ids=ids[None], use_cache=False).logits[0]
    return torch.nn.functional.cross_entropy(
        logits[text.start - 1 : -1].float(), ids[text.start :]
    )


def _accumulate(
    model: Any,
    names: Sequence[str],
    texts: Iterable[Document],
    add: Callable[[str, Tensor, Tensor], None],
) -> int:
    """Call `add(name, parameter, gradient)` for each text and count the texts.

    A gradient is dropped as soon as it was used, so that only a few are in memory.
    """
    parameters = dict(model.named_parameters())
    count = 0

    @torch.no_grad()
    def take(name: str, parameter: Tensor) -> None:
        # The hook runs when the gradient has just been made.
        add(name, parameter, cast("Tensor", parameter.grad))
        parameter.grad = None

    handles = []
    try:
        for name in names:
            parameter = parameters[name].requires_grad_(requires_grad=True)
            handles.append(parameter.register_post_accumulate_grad_hook(partial(take, name)))
        with torch.enable_grad():
            for text in texts:
                torch.autograd.backward(loss(model, text))
                count += 1
    finally:
        for handle in handles:
            handle.remove()
        model.requires_grad_(requires_grad=False)
    return count
