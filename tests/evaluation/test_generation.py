"""Promise: an answer is what greedy decoding of its prompt alone gives, up to its first stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from evaluated_models import MODELS, VOCABULARY
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.evaluation.passes.forward import Forward
from evomerge.evaluation.passes.generation import Generation
from evomerge.evaluation.passes.library_generation import generate
from evomerge.evaluation.passes.tokens import Prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

END = 1


class Letters:
    """A tokenizer whose tokens are letters; `a` ends a text."""

    pad_id = 0

    def answer(self, tokens: Sequence[int], until: Sequence[str]) -> str:
        text = "".join(chr(ord("`") + token) for token in tokens)
        for stop in ("a", *until):
            text = text.split(stop)[0]
        return text

    def ended(self, answers: Sequence[tuple[Sequence[int], Sequence[str]]]) -> list[bool]:
        return [len(self.answer(tokens, until)) < len(tokens) for tokens, until in answers]

    def stopping(self, until: Sequence[str], prompt_length: int, rows: int) -> None:
        return None


def alone(model: Any, prompt: Prompt) -> str:
    """The definition: one row, read from its beginning for every token."""
    tokens: list[int] = []
    while len(tokens) < prompt.max_new_tokens and END not in tokens:
        logits = model(torch.tensor([[*prompt.inputs, *tokens]])).logits
        tokens.append(int(logits[0, -1].argmax()))
    return Letters().answer(tokens, prompt.until)


prompts = st.lists(
    st.builds(
        Prompt,
        inputs=st.lists(st.integers(2, VOCABULARY - 1), min_size=1, max_size=9).map(tuple),
        until=st.sampled_from([(), ("b",), ("c", "de"), ("ff",)]),
        max_new_tokens=st.integers(1, 12),
    ),
    max_size=9,
)


@pytest.mark.parametrize("make", MODELS.values(), ids=list(MODELS))
@pytest.mark.parametrize("batch_tokens", [4, 40, 400])
def test_an_answer_does_not_depend_on_what_else_is_asked(
    make: Callable[[], Any], batch_tokens: int
) -> None:
    model = make()
    generation = Generation(Forward(model), Letters(), batch_tokens)  # type: ignore[arg-type]

    @settings(max_examples=12)
    @given(prompts)
    def same(asked: list[Prompt]) -> None:
        with torch.inference_mode():
            expected = [alone(model, prompt) for prompt in asked]
        assert generation.run(asked) == expected

    same()


@pytest.mark.parametrize("make", MODELS.values(), ids=list(MODELS))
def test_the_library_gives_the_same_answers(make: Callable[[], Any]) -> None:
    model = make()
    model.generation_config.eos_token_id = END
    asked = [Prompt(inputs=(n, 3, n + 1), until=(), max_new_tokens=7) for n in (2, 5, 9, 5)]
    own = Generation(Forward(model), Letters(), 100).run(asked)  # type: ignore[arg-type]
    assert generate(model, Letters(), asked, 30) == own  # type: ignore[arg-type]


def test_a_row_that_is_done_makes_room_for_the_next_prompt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sixteen short answers beside a long one cost no more passes than the long one."""
    model = MODELS["llama"]()
    forward, passes = Forward(model), []
    read = forward.read

    def counted(ids: Any, *rest: Any, **named: Any) -> Any:
        passes.append(len(ids))
        return read(ids, *rest, **named)

    monkeypatch.setattr(forward, "read", counted)
    asked = [Prompt(inputs=(2, n), until=(), max_new_tokens=2) for n in range(2, 18)]
    asked.append(Prompt(inputs=(3, 3), until=(), max_new_tokens=24))
    Generation(forward, Endless(), 13).run(asked)  # type: ignore[arg-type]  # four rows of 26
    assert len(passes) <= 24 + 6
    assert max(passes) <= 4


class Endless(Letters):
    def ended(self, answers: Sequence[tuple[Sequence[int], Sequence[str]]]) -> list[bool]:
        return [False] * len(answers)
