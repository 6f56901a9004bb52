"""MergeRecipe: everything needed to rebuild one merged model, bit for bit."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    WithJsonSchema,
    model_validator,
)

from evomerge.layout import Component, Place
from evomerge.recipe.calibration import CalibrationSettings
from evomerge.recipe.digest import digest_of
from evomerge.recipe.lineage import MAX_DEPTH, MAX_INNER, ancestry, with_named_recipes
from evomerge.recipe.schema import Natural, Positive, Strict, Text
from evomerge.recipe.stack import BASE, Stack
from evomerge.recipe.vocabulary import ChatTemplate, TokenizerSettings

if TYPE_CHECKING:
    from typing_extensions import Self


def _plain_value(value: object) -> float | bool | str:
    if isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float)) and -sys.float_info.max <= value <= sys.float_info.max:
        # -0.0 equals 0.0 but is written differently, which would give one recipe two digests.
        return float(value) + 0.0
    shown = repr(value)[:60]
    raise ValueError(f"expected a finite number, true, false or a word, found {shown}")


Value = Annotated[
    float | bool | str,
    PlainValidator(_plain_value),
    WithJsonSchema({"type": ["number", "boolean", "string"]}),
]
"""A parameter's value: a finite number, a flag or a word."""

Dtype = Literal["base", "float32", "bfloat16", "float16", "float64"]
LayerRange = tuple[Natural, Positive]


class Rule(Strict):
    """A parameter's value for some tensors.

    Attributes:
        value: The value.
        layers: Half-open range of layer indices, or every tensor when absent. Tensors outside
            the layers (embedding, final norm, head) are in no range.
        component: The part of the model, or every part when absent.
        tensor: Text that the tensor's name contains, or any name when absent; for a parameter per
            source it is the name in the source, where layers may have other numbers.
    """

    value: Value
    layers: LayerRange | None = None
    component: Component | None = None
    tensor: Text | None = None

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> Self:
        if self.layers and self.layers[0] >= self.layers[1]:
            raise ValueError(f"layers: {list(self.layers)} is empty; the end is not included")
        return self

    def applies(self, name: str, place: Place) -> bool:
        """Whether this rule speaks about a tensor."""
        if self.layers and (place.layer is None or place.layer not in range(*self.layers)):
            return False
        if self.component and place.component != self.component:
            return False
        return self.tensor is None or self.tensor in name


def _kind_of_setting(value: object) -> str:
    return "rules" if isinstance(value, (list, tuple)) else "value"


def _at_least_one(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    if not rules:
        raise ValueError("give a value or at least one rule")
    return rules


Setting = Annotated[
    Annotated[Value, Tag("value")]
    | Annotated[tuple[Rule, ...], AfterValidator(_at_least_one), Tag("rules")],
    Discriminator(_kind_of_setting),
]
"""A parameter's value for all tensors, or rules of which the first that applies counts."""


Name = Annotated[str, Field(max_length=80, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""A name that is safe to print: not empty, not long, no control characters."""


def _refuse_unresolved(value: object) -> object:
    if isinstance(value, str):
        raise ValueError(f"no recipe is called {value!r}; give it in recipes, at the top")  # noqa: TRY004
    return value


Inner = Annotated[
    "MergeRecipe",
    BeforeValidator(_refuse_unresolved, json_schema_input_type="MergeRecipe | str"),
]
"""A recipe inside another; in files also its name in the table of the outermost."""


class Source(Strict):
    """A model that takes part in a merge: a checkpoint or another candidate.

    Attributes:
        model: Folder, Hub id (`org/name@revision`) or adapter on top of one (`base+adapter`).
        candidate: Digest of another merge recipe.
        recipe: Another merge recipe, in full or by its name in `recipes`.
        name: Short name in tables; also names the random numbers drawn for this source. Taken
            from the model's path when absent.
        parameters: Operator parameters for this source; they come before the recipe's.
        measured_as: A model that operators measure in place of this source, such as the one that
            a recipe descends from.
    """

    model: Text | None = None
    candidate: Text | None = None
    recipe: Inner | None = None
    name: Name | None = None
    parameters: Mapping[str, Setting] = Field(default_factory=dict)
    measured_as: Text | None = None

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        given = [key for key in ("model", "candidate", "recipe") if getattr(self, key) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"give exactly one of model, candidate, recipe; found {found}")
        return self

    @property
    def label(self) -> str:
        """Its name, else the last part of its model's path or the candidate's digest."""
        if self.name:
            return self.name
        if self.model:
            return self.model.rstrip("/").rpartition("+")[2].rpartition("/")[2]
        # In full or by digest is the same source, so it must draw the same random numbers.
        return self.recipe.digest if self.recipe else self.candidate or ""


def _source_from_text(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


def _with_unique_names(sources: tuple[Source, ...]) -> tuple[Source, ...]:
    if not sources:
        raise ValueError("give at least one source")
    labels = [source.label for source in sources]
    repeated = sorted({label for label in labels if labels.count(label) > 1})
    if repeated:
        raise ValueError(f"two sources are called {repeated[0]!r}; give each a 'name'")
    return sources


Sources = Annotated[
    tuple[
        Annotated[Source, BeforeValidator(_source_from_text, json_schema_input_type=str | Source)],
        ...,
    ],
    AfterValidator(_with_unique_names),
]
"""At least one source; a bare text stands for a model."""


class MergekitCompat(Strict):
    """Asks for mergekit's arithmetic, random numbers and dtypes instead of ours.

    Attributes:
        dtype: What every tensor is converted to when it is read; when absent, the tensors of a
            merge are promoted to one dtype.
    """

    dtype: Literal["float32", "bfloat16", "float16", "float64"] | None = None


class MergeRecipe(Strict):
    """Everything needed to rebuild one merged model, bit for bit.

    Attributes:
        version: Version of this format.
        base: The model task vectors are measured from; also gives config and tokenizer.
        base_recipe: A merge that task vectors are measured from, instead of the base.
        sources: The models to merge; their order is part of the recipe.
        operator: Name of the merge operator.
        parameters: Operator parameters for all sources.
        dtype: What is stored; `base` keeps each tensor's dtype of the base. Arithmetic is in
            float32 whatever is stored.
        seed: Seeds stochastic operators; unused by the others.
        tokenizer: How models with different vocabularies are merged. When absent, all models
            must have the vocabulary of the base.
        chat_template: The chat template of the result; that of its tokenizer when absent.
        stack: Which layers the result is built from, bottom up; those of the base when absent.
            The layers of rules are those of the result.
        mergekit_compat: Rebuilds what mergekit 0.1.5 makes, bit for bit.
        calibration: Texts that the models are run on, for operators that measure them.
        recipes: In files: recipes that sources and `base_recipe` name, here or in this table.
            They take the places of their names when the file is read, so it is empty then.
    """

    version: Literal[1] = 1
    base: Text
    base_recipe: Inner | None = None
    sources: Sources
    operator: Text
    parameters: Mapping[str, Setting] = Field(default_factory=dict)
    dtype: Dtype = "base"
    seed: Natural = 0
    tokenizer: TokenizerSettings | None = None
    chat_template: ChatTemplate | None = None
    stack: Stack | None = None
    mergekit_compat: MergekitCompat | None = None
    calibration: CalibrationSettings | None = None
    recipes: Mapping[Name, MergeRecipe] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _names_stand_for_recipes(cls, data: Any) -> Any:
        return with_named_recipes(data, cls.model_validate)

    @property
    def inner(self) -> list[MergeRecipe]:
        """The recipes that this one needs."""
        base = [self.base_recipe] if self.base_recipe else []
        return base + [source.recipe for source in self.sources if source.recipe]

    @cached_property
    def depth(self) -> int:
        """How many recipes stand inside one another, this one included."""
        return 1 + max((inner.depth for inner in self.inner), default=0)

    @cached_property
    def digest(self) -> str:
        """Its content digest; see `evomerge.recipe.digest`."""
        return digest_of(self)

    def __copy__(self) -> Self:
        """Copy what it is given, not what follows: the copy may be given something else."""
        copied = super().__copy__()
        for known in ("depth", "digest"):
            copied.__dict__.pop(known, None)
        return copied

    # First, so that no other check goes through more than this allows.
    @model_validator(mode="after")
    def _is_not_nested_without_end(self) -> Self:
        found, most, what = self.depth, MAX_DEPTH, "deep"
        if found <= most:
            found, most, what = len(ancestry([self])), MAX_INNER, "in number"
        if found > most:
            raise ValueError(
                f"nested recipes are {found} {what}, at most {most} are read; merge the inner "
                "ones first and name their folders"
            )
        return self

    @model_validator(mode="after")
    def _stack_names_sources(self) -> Self:
        labels = {source.label for source in self.sources}
        for index, slab in enumerate(self.stack or ()):
            unknown = sorted(slab.labels() - labels)
            if unknown:
                known = ", ".join(sorted({BASE, *labels}))
                raise ValueError(
                    f"stack.{index}.layers: {unknown[0]!r} is no source; known: {known}"
                )
        if self.stack and BASE in labels:
            raise ValueError(
                "sources: one is called 'base', which means the base model in a stack; give it "
                "another 'name'"
            )
        return self

    @model_validator(mode="after")
    def _calibration_names_sources(self) -> Self:
        labels = {source.label for source in self.sources}
        unknown = self.calibration.unknown(labels) if self.calibration else []
        if unknown:
            known = ", ".join(sorted({BASE, *labels}))
            raise ValueError(f"calibration.texts: {unknown[0]!r} is no source; known: {known}")
        if self.calibration and self.tokenizer:
            raise ValueError(
                "calibration: models are measured in their own vocabulary, so there can be no "
                "tokenizer; export the models in one vocabulary first"
            )
        return self

    @model_validator(mode="after")
    def _vocabularies_are_of_models(self) -> Self:
        inner = {f"sources.{i}.recipe": source.recipe for i, source in enumerate(self.sources)}
        for where, recipe in {**inner, "base_recipe": self.base_recipe}.items():
            if recipe and (recipe.tokenizer or recipe.chat_template):
                raise ValueError(
                    f"{where}: only the outermost recipe may have a tokenizer or chat_template; "
                    "move it there"
                )
        if self.tokenizer and self.base_recipe:
            raise ValueError(
                "base_recipe: is a recipe; with a tokenizer, the base must be a model; export it "
                "first"
            )
        for index, source in enumerate(self.sources):
            if self.tokenizer and source.model is None:
                raise ValueError(
                    f"sources.{index}: is a recipe or candidate; with a tokenizer, every source "
                    "must be a model; export it first"
                )
        models = [self.base, *(source.model for source in self.sources)]
        for where, name in self.tokenizer.model_names() if self.tokenizer else ():
            if name not in models:
                raise ValueError(
                    f"tokenizer.{where}: {name!r} is no model of this recipe; its models: "
                    f"{', '.join(dict.fromkeys(map(str, models)))}"
                )
        return self

    def setting(self, parameter: str, name: str, place: Place, source: Source | None) -> Any:
        """The value of a parameter for a tensor, or None if the recipe gives none.

        A source's own parameters come first, then the recipe's; within one, the first rule that
        applies counts.
        """
        scopes = (source.parameters, self.parameters) if source else (self.parameters,)
        for scope in scopes:
            found = scope.get(parameter)
            if not isinstance(found, tuple):
                if found is not None:
                    return found
                continue
            for rule in found:
                if rule.applies(name, place):
                    return rule.value
        return None


Source.model_rebuild()
