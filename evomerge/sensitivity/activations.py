"""Statistics of what linear layers read, by forward passes, one text at a time.

Gram: RegMean, Jin et al. 2022, https://arxiv.org/abs/2212.09849, sec. 3. Activation: Nobari et al.
2025, https://arxiv.org/abs/2502.02421. Linear layers are those that run as modules of their own;
a head tied to the embedding and experts fused into one parameter are none.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from evomerge.sensitivity.calibration import Document


def linear_widths(model: Any) -> dict[str, int]:
    """The number of inputs of every linear layer, by the name of its weight."""
    owners = {name for name, _ in model.named_parameters()}
    return {
        f"{name}.weight": _width(module)
        for name, module in model.named_modules()
        if _is_linear(module) and f"{name}.weight" in owners
    }


def gram(model: Any, names: Sequence[str], texts: Iterable[Document]) -> dict[str, Tensor]:
    """Sum over tokens of `x x^T`, where x is what a linear layer reads.

    Args:
        model: A causal language model of transformers.
        names: Names of the layers' weights.
        texts: The texts.

    Returns:
        One symmetric float32 tensor per name, shape `(in, in)`.
    """
    widths = linear_widths(model)
    sums = {name: torch.zeros(widths[name], widths[name], device=model.device) for name in names}

    def add(name: str, inputs: Tensor) -> None:
        sums[name].addmm_(inputs.T, inputs)

    _watch(model, names, texts, add)
    return sums


def activation(model: Any, names: Sequence[str], texts: Iterable[Document]) -> dict[str, Tensor]:
    """Mean over tokens of |x|, where x is what a linear layer reads.

    Arguments are those of `gram`.

    Returns:
        One float32 tensor per name, shape `(in,)`; zeros for a layer that no token reached.
    """
    widths = linear_widths(model)
    sums = {
        name: torch.zeros(widths[name], dtype=torch.float64, device=model.device) for name in names
    }
    tokens = dict.fromkeys(names, 0)

    def add(name: str, inputs: Tensor) -> None:
        sums[name] += inputs.abs().sum(dim=0, dtype=torch.float64)
        tokens[name] += len(inputs)

    _watch(model, names, texts, add)
    return {name: (total / max(1, tokens[name])).float() for name, total in sums.items()}


def _watch(
    model: Any,
    names: Iterable[str],
    texts: Iterable[Document],
    add: Callable[[str, Tensor], None],
) -> None:
    """Call `add(name, inputs)` whenever a layer runs; inputs are float32, `(tokens, in)`."""

    def take(name: str, module: Any, inputs: tuple[Tensor, ...]) -> None:
        add(name, inputs[0].reshape(-1, _width(module)).float())

    handles = []
    try:
        for name in names:
            module = model.get_submodule(name.removesuffix(".weight"))
            handles.append(module.register_forward_pre_hook(partial(take, name)))
        with torch.inference_mode():
            for text in texts:
                model(input_ids=text.ids[None].to(model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()


def _is_linear(module: Any) -> bool:
    # GPT-2's Conv1D is a linear layer whose weight is stored as (in, out).
    return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"


def _width(module: Any) -> int:
    return int(module.weight.shape[1 if isinstance(module, torch.nn.Linear) else 0])
