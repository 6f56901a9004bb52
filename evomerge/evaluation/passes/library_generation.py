"""Greedy answers by transformers' own loop, for models whose caches are of another kind."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch

from evomerge.evaluation.passes.batches import token_batches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.evaluation.passes.tokens import Prompt, Tokenizer


@torch.inference_mode()
def generate(
    model: Any, tokenizer: Tokenizer, prompts: Sequence[Prompt], batch_tokens: int
) -> list[str]:
    """Answer prompts in batches that end with their longest answer; equal ones are answered once.

    Args:
        model: Any causal language model of transformers.
        tokenizer: Its tokenizer.
        prompts: The prompts.
        batch_tokens: Most tokens of a batch, answers and padding included.
    """
    alike: dict[tuple[tuple[str, ...], int], dict[Prompt, None]] = defaultdict(dict)
    for prompt in prompts:
        alike[prompt.until, prompt.max_new_tokens][prompt] = None
    answers: dict[Prompt, str] = {}
    for (until, length), members in alike.items():
        rows = [_Row(prompt) for prompt in members]
        for batch in token_batches(rows, batch_tokens):
            longest = max(len(row.prompt.inputs) for row in batch)
            padding = [longest - len(row.prompt.inputs) for row in batch]
            pairs = list(zip(batch, padding, strict=True))
            ids = [(tokenizer.pad_id,) * missing + row.prompt.inputs for row, missing in pairs]
            mask = [(0,) * missing + (1,) * (longest - missing) for missing in padding]
            generated = model.generate(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=length,
                do_sample=False,
                use_cache=True,
                pad_token_id=tokenizer.pad_id,
                stopping_criteria=tokenizer.stopping(until, longest, len(batch)),
            )[:, longest:].tolist()
            for row, tokens in zip(batch, generated, strict=True):
                answers[row.prompt] = tokenizer.answer(tokens, until)
    return [answers[prompt] for prompt in prompts]


class _Row:
    """A prompt, as long as it may become."""

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt

    def __len__(self) -> int:
        return len(self.prompt.inputs) + self.prompt.max_new_tokens
