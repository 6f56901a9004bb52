"""Calls of mergekit's merge methods, drawn at random, for mergekit and us to answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from mergekit_process import merge_with_mergekit
from operating import draw
from torch import Tensor

from evomerge.operators.registry import find_operator
from evomerge.recipe.mergekit.names import METHODS, Theirs, operator_of

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

COUNTS = {"nuslerp": (2, 2), "model_stock": (2, 4), "passthrough": (1, 1)} | dict.fromkeys(
    ("slerp", "nearswap", "arcee_fusion"), (1, 1)
)
"""Least and greatest number of models besides the base; of other methods one to four."""

RANGES = {
    "weight": (-1.0, 2.0),
    "density": (0.0, 1.0),
    "select_topk": (0.0, 1.0),
    "gamma": (0.0, 0.4),
    "epsilon": (0.0, 0.05),
    "lambda": (-1.5, 1.5),
    "scale": (-2.0, 2.0),
    "t": (0.0, 1.0),
    "r": (0.0, 1.0),
    "alpha": (0.0, 2.0),
}
"""Of the values that a parameter is drawn from."""

# mergekit takes no others.
MAGPRUNE = {"density": (0.3, 0.7), "epsilon": (0.0, 0.25)}
CHANGED = {"epsilon": (1e-6, 0.05)}
OWN_RANGES = {
    "della": MAGPRUNE,
    "della_linear": MAGPRUNE,
    "ram": CHANGED,
    "ramplus_tl": CHANGED,
    "nearswap": {"t": (0.001, 2.0)},
}


@dataclass(frozen=True, kw_only=True)
class Call:
    """A method, and what it merges.

    Attributes:
        method: mergekit's name.
        stack: The models as they are stored, shape `(M, *S)`.
        base: Whether the first is the base.
        parameters: mergekit's; lists have a value for each model, the base apart.
        seed: Of random numbers.
    """

    method: str
    stack: Tensor
    base: bool = True
    parameters: dict[str, Any]
    seed: int = 0

    def ask_mergekit(
        self, dtype: torch.dtype | None = None, out_dtype: torch.dtype | None = None
    ) -> Tensor:
        """What mergekit makes of it."""
        given = {"base": self.base, "dtype": dtype, "out_dtype": out_dtype, "seed": self.seed}
        return merge_with_mergekit(self.method, self.stack, self.parameters, **given)

    @property
    def sources(self) -> Tensor:
        """The models that our operator merges."""
        from_base = self.base and METHODS[self.method].base in ("origin", "maybe")
        return self.stack[1:] if from_base else self.stack

    @property
    def deltas(self) -> Tensor:
        """The task vectors in float32."""
        return self.sources.float() - self.stack[0].float()

    def ours(self) -> tuple[str, dict[str, Any]]:
        """Our operator, and a value for each of its parameters."""
        known = METHODS[self.method]
        flags = {name: self.parameters.get(name, d) for name, d in known.choices.items()}
        name, words = operator_of(self.method, flags)
        parameters = find_operator(name).parameters
        taken = {p.name: p.default for p in parameters.values()} | words
        for each in known.parameters:
            if each.ours is None:
                continue
            value = self.parameters.get(each.name, each.default)
            taken[each.ours] = value if each.words is None else each.words[bool(value)]
        if known.base == "maybe":
            taken["around"] = "base" if self.base else "origin"
        for key, value in taken.items():
            if parameters[key].per_source:
                every = value if isinstance(value, list) else [value] * len(self.sources)
                taken[key] = tuple(every)
        return name, taken


@st.composite
def calls(draw_one: st.DrawFn, method: str) -> Call:
    """Calls of a method, with every parameter of it that we have as well."""
    known = METHODS[method]
    count = draw_one(st.integers(*COUNTS.get(method, (1, 4))))
    base = known.base in ("origin", "first") or draw_one(st.booleans())
    # A base that is an ordinary model is one of them.
    stack = draw_one(stacks(count + (base and known.base != "any")))
    parameters: dict[str, Any] = {}
    for each in known.parameters:
        if each.ours is not None and (each.default is None or draw_one(st.booleans())):
            several = each.per_source
            value = numbers(method, each)
            parameters[each.name] = draw_one(
                st.lists(value, min_size=count, max_size=count) if several else value
            )
    for name in sorted({*known.choices, *known.without_effect}):
        parameters[name] = draw_one(st.booleans())
    seed = draw_one(st.integers(0, 9999))
    return Call(method=method, stack=stack, base=base, parameters=parameters, seed=seed)


def numbers(method: str, parameter: Theirs) -> st.SearchStrategy[float | bool]:
    """Values of a parameter."""
    if parameter.is_flag:
        return st.booleans()
    low, high = OWN_RANGES.get(method, {}).get(parameter.name, RANGES[parameter.name])
    steps = st.integers(0, 1000).map(lambda step: round(low + (high - low) * step / 1000, 6))
    # Weights that are alike let votes end in a draw.
    return steps | st.just(1.0) if parameter.name in ("density", "weight") else steps


SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple) | st.sampled_from(
    [(1,), (1, 1), (40, 1), (1, 40), (257,), (2, 900), (33, 65), (5, 7, 31)]
)

KINDS = (
    *("any", "siblings", "tiny changes", "zeros", "no base", "identical", "alike", "coarse"),
    "next to nothing",
    "cousins",
)


@st.composite
def stacks(
    draw_one: st.DrawFn, rows: int, kinds: tuple[str, ...] = ("any", "siblings", *KINDS)
) -> Tensor:
    """Models as they are stored, shape `(rows, *S)`, of a random shape and dtype."""
    made = draw((rows, *draw_one(SHAPES)), draw_one(st.integers(0, 2**20)))
    first, changes = made[:1], made.clone()
    changes[0] = 0
    match draw_one(st.sampled_from(kinds)):
        case "siblings":
            made = first + 0.02 * changes * (changes.abs() > 0.5)
        case "cousins":
            made = first + 0.1 * changes
        case "tiny changes":
            made = first + 1e-4 * changes
        case "zeros":
            made = torch.zeros_like(made)
        case "no base":
            made[0] = 0
        case "identical":
            made = first.expand_as(made)
        case "alike":
            made[1:] = made[-1:].clone()
        case "next to nothing":
            made *= 1e-8
        case "coarse":
            made = made.mul(2).round().div(2)
    return made.to(draw_one(st.sampled_from(DTYPES)))
