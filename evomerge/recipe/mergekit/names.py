"""What mergekit 0.1.5 calls its merge methods and their parameters, and what we call them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Words = Mapping[bool, str]
"""Our word for each of mergekit's flags."""

NORM: Words = {True: "norm", False: "none"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Theirs:
    """A parameter of a merge method of mergekit.

    Attributes:
        name: What mergekit calls it.
        ours: What our operator calls it; None if that has it fixed at the default.
        per_source: Whether mergekit reads it for each model.
        default: Its value when a recipe gives none; None if mergekit insists on one.
        words: Ours for a flag of theirs.
    """

    name: str
    ours: str | None
    per_source: bool = False
    default: float | bool | None = None
    words: Words | None = None

    @property
    def is_flag(self) -> bool:
        """Whether it is true or false."""
        return isinstance(self.default, bool)


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A merge method of mergekit.

    Attributes:
        name: What mergekit calls it, and we as well unless a choice leads elsewhere.
        parameters: Its parameters, those apart that do not change the result.
        base: Whether the base is what task vectors are measured from (`origin`, and `maybe` if
            that is optional), the `first` of two models, or an ordinary model (`any`).
        choices: Flags that choose among operators, and what they are when absent.
        without_effect: Parameters that mergekit accepts and that do not change the result.
        notes: How mergekit's result differs from that of our operator.
    """

    name: str
    parameters: tuple[Theirs, ...] = ()
    base: Literal["origin", "maybe", "first", "any"]
    choices: Mapping[str, bool] = field(default_factory=dict)
    without_effect: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> set[str]:
        """Every parameter that mergekit reads or accepts."""
        return {each.name for each in self.parameters} | {*self.choices} | self.without_effect


WEIGHT = Theirs(name="weight", ours="weight", per_source=True)
DENSITY = Theirs(name="density", ours="density", per_source=True, default=1.0)
LAMBDA = Theirs(name="lambda", ours="scale", default=1.0)
T = Theirs(name="t", ours="t")
MEMORY_ONLY = frozenset({"int8_mask"})
OTHER_MASKS = "mergekit draws other random masks: the same method, but not the same bytes"


def _sums(
    name: str,
    *parameters: Theirs,
    normalize: bool = False,
    rescale: bool | None = None,
    notes: tuple[str, ...] = (),
) -> Method:
    """A weighted sum of task vectors, of which all share some parameters."""
    own = (
        WEIGHT,
        DENSITY,
        *parameters,
        LAMBDA,
        Theirs(name="normalize", ours="normalize", default=normalize),
        Theirs(name="rescale", ours=None, default=False)
        if rescale is None
        else Theirs(name="rescale", ours="rescale", default=rescale, words=NORM),
    )
    return Method(
        name=name, parameters=own, base="origin", without_effect=MEMORY_ONLY, notes=notes
    )


GAMMA = Theirs(name="gamma", ours="gamma", per_source=True, default=0.01)
EPSILON = Theirs(name="epsilon", ours="epsilon", per_source=True, default=0.15)
RAM_EPSILON = Theirs(name="epsilon", ours="epsilon", default=1e-5)

METHODS = {
    method.name: method
    for method in (
        Method(
            name="linear",
            parameters=(WEIGHT, Theirs(name="normalize", ours="normalize", default=True)),
            base="any",
        ),
        Method(name="slerp", parameters=(T,), base="first"),
        Method(
            name="nuslerp",
            parameters=(WEIGHT,),
            base="maybe",
            choices={"nuslerp_flatten": True, "nuslerp_row_wise": False},
        ),
        Method(
            name="multislerp",
            parameters=(
                WEIGHT,
                Theirs(name="normalize_weights", ours="normalize", default=True),
                Theirs(name="eps", ours=None, default=1e-8),
            ),
            base="maybe",
        ),
        Method(
            name="karcher",
            parameters=(
                Theirs(name="max_iter", ours=None, default=10),
                Theirs(name="tol", ours=None, default=1e-5),
            ),
            base="any",
        ),
        # Without a sparsifier, density and rescale have nothing to act on.
        Method(
            name="task_arithmetic",
            parameters=(
                WEIGHT,
                LAMBDA,
                Theirs(name="normalize", ours="normalize", default=False),
            ),
            base="origin",
            without_effect=MEMORY_ONLY | {"density", "rescale"},
        ),
        _sums("ties", normalize=True),
        _sums("dare_ties", rescale=True, notes=(OTHER_MASKS,)),
        _sums("dare_linear", rescale=True, notes=(OTHER_MASKS,)),
        _sums("breadcrumbs", GAMMA),
        _sums("breadcrumbs_ties", GAMMA),
        _sums("della", EPSILON, normalize=True, rescale=True, notes=(OTHER_MASKS,)),
        _sums("della_linear", EPSILON, rescale=True, notes=(OTHER_MASKS,)),
        Method(
            name="sce",
            parameters=(Theirs(name="select_topk", ours="density", default=1.0),),
            base="origin",
            without_effect=MEMORY_ONLY,
        ),
        Method(name="model_stock", base="origin", choices={"filter_wise": False}),
        Method(name="nearswap", parameters=(T,), base="first"),
        Method(name="arcee_fusion", base="first"),
        Method(name="ram", parameters=(RAM_EPSILON,), base="origin"),
        Method(
            name="ramplus_tl",
            parameters=(
                RAM_EPSILON,
                Theirs(name="r", ours="r", default=0.1),
                Theirs(name="alpha", ours="alpha", default=0.2),
            ),
            base="origin",
        ),
        Method(
            name="passthrough",
            parameters=(Theirs(name="scale", ours="scale", per_source=True, default=1.0),),
            base="any",
        ),
    )
}
"""mergekit's merge methods by name."""


OPERATORS = METHODS.keys() | {"nuslerp_lines", "model_stock_rows"}
"""Our operators that are merge methods of mergekit, or variants of one."""


def operator_of(method: str, choices: Mapping[str, bool]) -> tuple[str, dict[str, str]]:
    """Our operator for a merge method and its choices, and the words that go with it."""
    if method == "nuslerp" and not choices["nuslerp_flatten"]:
        return "nuslerp_lines", {"along": "columns" if choices["nuslerp_row_wise"] else "rows"}
    if method == "model_stock" and choices["filter_wise"]:
        return "model_stock_rows", {}
    return method, {}


def method_of(operator: str, parameters: Mapping[str, object]) -> tuple[Method, dict[str, bool]]:
    """The merge method for an operator of ours, and the choices that lead back to it.

    Raises:
        KeyError: mergekit has none.
    """
    if operator == "nuslerp_lines":
        columns = parameters.get("along", "rows") == "columns"
        return METHODS["nuslerp"], {"nuslerp_flatten": False, "nuslerp_row_wise": columns}
    if operator == "model_stock_rows":
        return METHODS["model_stock"], {"filter_wise": True}
    return METHODS[operator], {}
