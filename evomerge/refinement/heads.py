"""From a causal language model's last hidden states to its logits, for a few rows at a time.

This is the one place that knows what a model does to its logits. What it finds is compared with
the model's own logits, so that a model of an unknown kind is refused, never learned from wrongly.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from evomerge.errors import EvaluationError, ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

_FACTORS = ("logit_scale", "lm_head_multiplier", "output_multiplier", "logits_scaling")
"""Numbers of a config that logits are multiplied with or, in other models, divided by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """The output projection of a model, and what follows it.

    Attributes:
        weight: Shape `(V, H)` or with more rows; the model's own, which may be its embedding's.
        bias: Of each row.
        scale: What the logits are multiplied with.
        cap: They become `cap * tanh(logits / cap)`, after they are scaled.
        tokens: V, where there are more rows: padding, that predicts nothing.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None
    tokens: int | None = None

    @property
    def vocabulary(self) -> int:
        """V, the number of tokens."""
        return self.tokens or self.weight.shape[0]

    def parameters(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the V tokens, through which gradients reach the model's own."""
        count = self.vocabulary
        if count == self.weight.shape[0]:
            return self.weight, self.bias
        return self.weight[:count], None if self.bias is None else self.bias[:count]

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of last hidden states: from shape `(n, H)` to `(n, V)`, float32 or more."""
        weight, bias = self.parameters()
        raw = functional.linear(hidden.to(weight.dtype), weight, bias)
        # The projection's own result is not needed again: what follows happens in place.
        logits = raw.float() if raw.dtype.itemsize < 4 else raw
        if self.scale != 1:
            logits = logits.mul_(self.scale)
        return logits if self.cap is None else logits.div_(self.cap).tanh_().mul_(self.cap)

    def slopes(self, logits: Tensor) -> Tensor | None:
        """The derivatives of logits by what the projection gave, where they are not all alike.

        The scale is left out: it is the same everywhere.
        """
        return None if self.cap is None else 1 - (logits / self.cap).square()

    def cast(self, dtype: torch.dtype) -> Head:
        """The same head in another precision."""
        weight, bias = self.parameters()
        return replace(
            self, weight=weight.to(dtype), bias=None if bias is None else bias.to(dtype)
        )


def head_of(model: Any, vocabulary: int | None = None) -> Head:
    """The head of a causal language model of transformers, adapted by peft or not.

    Args:
        model: The model; it reads a few tokens.
        vocabulary: The tokenizer's size, where the model has more rows than that.

    Raises:
        ModelError: The head is adapted, is no linear layer, or does what is not known here.
        EvaluationError: The model predicts NaN.
    """
    plain = _plain(model)
    kind = type(plain).__name__
    layer = plain.get_output_embeddings()
    if type(layer) is not nn.Linear:
        raise ModelError(
            f"{kind}: its output head is {type(layer).__module__}.{type(layer).__name__}, allowed "
            "is a plain linear layer; take the head (lm_head) out of the adapter's target_modules "
            "and modules_to_save, and do not quantise it"
        )
    if vocabulary is not None and vocabulary > layer.out_features:
        raise ModelError(
            f"{kind}: its tokenizer has {vocabulary} tokens, its output head "
            f"{layer.out_features}; use the tokenizer that belongs to the model"
        )
    return replace(_like_the_model(plain, layer), tokens=vocabulary)


def last_hidden_states(model: Any, **inputs: Any) -> Tensor:
    """What the head of a model is applied to; shape `(batch, positions, H)`.

    Args:
        model: A causal language model of transformers, adapted by peft or not.
        **inputs: What the model is called with, but labels.
    """
    hidden: Tensor = _plain(model).base_model(**inputs).last_hidden_state
    return hidden


def _plain(model: Any) -> Any:
    """The model inside what peft wraps around it; adapters stay in its layers."""
    unwrap = getattr(model, "get_base_model", None)
    return model if unwrap is None else unwrap()


def _like_the_model(model: Any, layer: nn.Linear) -> Head:
    tokens = torch.arange(min(8, layer.out_features), device=layer.weight.device)[None]
    seen: list[Tensor] = []
    hook = model.base_model.register_forward_hook(
        lambda _module, _inputs, output: seen.append(output.last_hidden_state)
    )
    try:
        with torch.no_grad():
            # In the same pass, so that dropout is the same.
            read = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False)
            own = read.logits[0].float()
    finally:
        hook.remove()
    if not own.isfinite().all():
        raise EvaluationError(f"{type(model).__name__}: its logits are NaN or infinite")
    # A few roundings of the model's precision.
    near = 8 * torch.finfo(layer.weight.dtype).eps * own.abs().max()
    # Some models call what is inside their base, and its hidden states are not seen then.
    for scale, cap in _guesses(model.config) if seen else ():
        head = Head(weight=layer.weight, bias=layer.bias, scale=scale, cap=cap)
        with torch.no_grad():
            found = head.logits(seen[0][0])
        if found.shape == own.shape and bool((found - own).abs().max() <= near):
            return head
    raise ModelError(
        f"{type(model).__name__}: its logits are not those of a linear layer that is scaled and "
        "capped as its config says; it cannot be refined"
    )


def _guesses(config: Any) -> Iterator[tuple[float, float | None]]:
    """Scales and caps that a config may mean; what it names comes before doing without."""
    text = config.get_text_config()
    named = [getattr(text, name, None) for name in _FACTORS]
    factors = [float(each) for each in named if each]
    scales = [*itertools.chain.from_iterable((1 / each, each) for each in factors), 1.0]
    caps = [getattr(text, "final_logit_softcapping", None), None]
    return itertools.product(scales, dict.fromkeys(caps))
