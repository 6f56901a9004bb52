"""SearchRecipe: what a search merges, how it proposes, scores and runs candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from evomerge.layout import Component
from evomerge.recipe.calibration import CalibrationSettings
from evomerge.recipe.merge import Dtype, Sources, Value
from evomerge.recipe.prior import PriorSettings
from evomerge.recipe.ranges import Bounds, Range, bounds_of
from evomerge.recipe.refine import Refinement
from evomerge.recipe.schema import Flag, Natural, Number, Positive, Strict, Text

if TYPE_CHECKING:
    from typing_extensions import Self

BackendName = Literal["hf", "vllm"]
StrategyName = Literal[
    "auto",
    "random",
    "Sobol",
    "CMA",
    "DiagonalCMA",
    "DE",
    "TwoPointsDE",
    "PSO",
    "OnePlusOne",
    "Ladder",
    "EvoGM",
    "Evolver",
    "EvolverMean",
    "EvolverFisher",
    "EvolverRegMean",
    "EvolverTIES",
    "EvolverDE",
    "Kinship",
    "M2N2Slerp",
    "DErand1",
    "SHADE",
    "GA",
    "GAPolynomial",
    "Swarm",
    "NSGA2",
    "M2N2",
    "CycleQD",
    "Coordinate",
]


class Generation(Strict):
    """How answers are generated, in place of what the task says; always greedily.

    Attributes:
        until: Texts that end an answer.
        max_gen_toks: Most tokens of an answer.
    """

    until: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    max_gen_toks: Positive | None = None


class Task(Strict):
    """An lm-eval task and how it counts.

    Attributes:
        name: The name of a task in lm-eval or in `include_path`, or of a group of tasks, of which
            each counts for an equal part.
        text: A text file whose lines are to be predicted, relative to the recipe; the name is then
            only what the task is called, and the first metric `bits_per_byte`.
        metric: Metric, optionally with its filter after a comma; the task's first when absent.
        weight: Share in the fitness.
        num_fewshot: Solved examples in the prompt; the task's own number when absent.
        chat_template: Put prompts into the chat template of the base's tokenizer.
        fewshot_as_multiturn: Make solved examples turns of the chat; in a chat template only.
        system_instruction: What stands before every prompt.
        generation: How answers are generated, in place of what the task says.
    """

    name: Text
    text: Text | None = None
    metric: Text | None = None
    weight: Annotated[Number, Field(gt=0)] = 1.0
    num_fewshot: Natural | None = None
    chat_template: Flag = False
    fewshot_as_multiturn: Flag = True
    system_instruction: Text | None = None
    generation: Generation = Generation()


def _task_from_text(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _all_different(tasks: tuple[Task, ...]) -> tuple[Task, ...]:
    if not tasks:
        raise ValueError("give at least one task")
    names = [task.name for task in tasks]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{repeated[0]!r} is listed twice")
    return tasks


Tasks = Annotated[
    tuple[
        Annotated[Task, BeforeValidator(_task_from_text, json_schema_input_type=str | Task)], ...
    ],
    AfterValidator(_all_different),
]
"""At least one task; a bare text stands for a task with its defaults."""


class Items(Strict):
    """How many items of each task are used, drawn once and then frozen.

    Attributes:
        search: Items per task that decide the search.
        confirm: Items per task that, with those of the search, decide which of the best eight
            candidates wins.
        held_out: Items per task that only the final comparison sees.
        seed: Seeds the draw.
    """

    search: Positive = 100
    confirm: Natural = 0
    held_out: Positive = 200
    seed: Natural = 0


def _rising_shares(rungs: tuple[float, ...]) -> tuple[float, ...]:
    if not rungs or list(rungs) != sorted({*rungs}) or rungs[0] <= 0 or rungs[-1] >= 1:
        raise ValueError("expected rising shares between 0 and 1, such as [0.25, 0.5]")
    return rungs


class Racing(Strict):
    """When a candidate that can no longer become the best is not scored on all items.

    Attributes:
        rungs: Shares of the search items after which a candidate is compared with the best one.
        alpha: Greatest chance that a candidate as good as the best one is stopped.
    """

    rungs: Annotated[tuple[Number, ...], AfterValidator(_rising_shares)] = (0.25, 0.5)
    alpha: Annotated[Number, Field(gt=0, lt=0.5)] = 0.05


class Evaluation(Strict):
    """How candidates are scored.

    Attributes:
        tasks: lm-eval tasks; a bare name stands for a task with its defaults.
        objective: What is made of the tasks' scores: `mean`, their weighted mean; `recovery`, the
            weighted mean of what is recovered of the best source's score on each task; `worst`,
            the least of these.
        include_path: Folder of local task YAML files, relative to the recipe.
        allow_task_code: Let local task files run Python code (`!function`).
        allow_generated_code: Let tasks run the code that models generate (`unsafe_code`), in a
            process without network and with limits.
        items: How many items of each task are used.
        racing: When candidates are stopped; null has every one scored on all items.
        batch_tokens: Most tokens, padding included, in one forward pass. Fixed for a run, because
            the last bits of a score depend on it.
        dtype: Precision of the forward pass; float32 is fastest on most CPUs.
        device: `cpu`, `cuda` or one device such as `cuda:1`; `auto` takes a GPU when there is one.
        backend: What runs the model: `hf`, transformers with our own passes, or `vllm`, an engine
            of vLLM that candidates are merged into; it has to be installed.
    """

    tasks: Tasks
    objective: Literal["mean", "recovery", "worst"] = "mean"
    include_path: Text | None = None
    allow_task_code: Flag = False
    allow_generated_code: Flag = False
    items: Items = Items()
    racing: Racing | None = Racing()
    batch_tokens: Positive = 2048
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    backend: BackendName = "hf"


def _kind_of_groups(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return "sizes"
    return "word" if isinstance(value, str) else "count"


LayerGroups = Annotated[
    Annotated[Positive, Tag("count")]
    | Annotated[tuple[Positive, ...], Tag("sizes")]
    | Annotated[Literal["each"], Tag("word")],
    Discriminator(_kind_of_groups),
]
"""A number of equal runs of layers, the number of layers in each run, or every layer by itself."""


def _different_operators(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("give at least one operator")
    repeated = [name for index, name in enumerate(names) if name in names[:index]]
    if repeated:
        raise ValueError(f"{repeated[0]!r} is listed twice")
    return names


def _one_or_several(value: object) -> str:
    return "several" if isinstance(value, (list, tuple)) else "one"


Operators = Annotated[
    Annotated[Text, Tag("one")]
    | Annotated[tuple[Text, ...], AfterValidator(_different_operators), Tag("several")],
    Discriminator(_one_or_several),
]
"""The name of an operator, or names of several that the search chooses from."""

Axis = Literal["sources", "layers", "components"]


class LayerPath(Strict):
    """A path through the sources' layers, with a step for each layer group.

    Attributes:
        repeats: How many times in a row a group may run; it may always be left out.
        scale: Lowest and highest factor on what the layers of a group add; 1 when absent.
    """

    repeats: Annotated[Positive, Field(le=8)] = 2
    scale: Range | None = None


class GenomeSpace(Strict):
    """Which merges the search can reach.

    Attributes:
        operator: Name of the merge operator, or a list of those that the search chooses from.
        layer_groups: Number of equal runs of layers with genes of their own, a list of the numbers
            of layers in each run, or `each` for every layer by itself.
        components: Parts of the model with genes of their own; the others share one.
        ranges: Lowest and highest value of a parameter, as `[low, high]`, or as
            `{low: 0.01, high: 3, log: true}` for orders of magnitude; the operator's own ranges
            when absent.
        fixed: Parameters that are not searched.
        shared: Parameters that have one gene for all `sources`, `layers` or `components`, instead
            of one for each.
        drop_sources: Let the search leave sources out, as far as the operator can do without.
        post: An operator that the search may apply to the merge, as it sees fit. Ranges and fixed
            values of parameters that only this operator has are its own.
        prior: How far weights follow what is measured of the sources before the search.
        path: Search which layers a model is made of instead of their weights, with `passthrough`.
    """

    operator: Operators = "task_arithmetic"
    layer_groups: LayerGroups = 4
    components: tuple[Component, ...] = ()
    ranges: dict[str, Range] = Field(default_factory=dict)
    fixed: dict[str, Value] = Field(default_factory=dict)
    shared: dict[str, tuple[Axis, ...]] = Field(default_factory=dict)
    drop_sources: Flag = False
    post: Literal["aim"] | None = None
    prior: PriorSettings | None = None
    path: LayerPath | None = None

    @property
    def operators(self) -> tuple[str, ...]:
        """The operators that the search chooses from, also if it is one only."""
        return (self.operator,) if isinstance(self.operator, str) else self.operator

    @property
    def bounds(self) -> dict[str, Bounds]:
        """The ranges, however they were written."""
        return {name: bounds_of(given) for name, given in self.ranges.items()}

    @model_validator(mode="after")
    def _ranges_are_ranges(self) -> Self:
        for name, bounds in self.bounds.items():
            problem = bounds.problem()
            if problem:
                raise ValueError(f"ranges.{name}: {problem}")
            if name in self.fixed:
                raise ValueError(f"{name} is both in ranges and in fixed; keep one")
        if self.post in self.operators:
            raise ValueError(f"{self.post} is both the operator and what follows it; keep one")
        return self

    @model_validator(mode="after")
    def _path_is_alone(self) -> Self:
        if self.path is None:
            return self
        if self.operators != ("passthrough",):
            raise ValueError(
                f"path: layers are taken as they are, found operator {self.operator}; write "
                "operator: passthrough"
            )
        for name in type(self).model_fields.keys() - {"path", "operator", "layer_groups"}:
            if getattr(self, name):
                raise ValueError(f"path: {name} has no say beside a path; leave it out")
        if self.path.scale is not None:
            problem = bounds_of(self.path.scale).problem()
            if problem:
                raise ValueError(f"path.scale: {problem}")
        return self


class Stop(Strict):
    """When a search ends before its candidates are used up; whichever comes first.

    Attributes:
        patience: After so many generations without a better best candidate.
        target: When a candidate's fitness is as high as this on all search items.
        hours: After so many hours of work on candidates, of all workers together.
        wall_hours: After so many hours by the clock on the wall, in all processes that searched in
            the run's folder one after the other.
        gpu_hours: After so many hours of work on candidates, of all GPUs together; workers that
            share a GPU count for their parts of it.
        items: After so many scored items.
    """

    patience: Positive | None = None
    target: Number | None = None
    hours: Annotated[Number, Field(gt=0)] | None = None
    wall_hours: Annotated[Number, Field(gt=0)] | None = None
    gpu_hours: Annotated[Number, Field(gt=0)] | None = None
    items: Positive | None = None


class Strategy(Strict):
    """How candidates are proposed, and how many.

    Attributes:
        strategy: Name of the search strategy; `auto` chooses one by genes and candidates.
        candidates: Most candidates that are evaluated, the starting ones included.
        generation: Candidates under way at a time.
        steady: Propose another candidate whenever one has been told, so that no worker waits for
            the last ones of a generation; each is then proposed with less known.
        step: Real standard deviation of the first proposals, as a fraction of the range, for the
            strategies that have one; chosen by dimension when absent.
        seed: Seeds the strategy and the stochastic operators; below 2^32.
        warm_start: The folder of an earlier run over the same genes, relative to the recipe; the
            first proposals lie around the mean of its best offspring.
        stop: When the search ends before its candidates are used up.
        elite_soup: Try the greedy soup of the best offspring in the end, in place of their mean.
    """

    strategy: StrategyName = "CMA"
    candidates: Positive = 200
    generation: Positive = 16
    steady: Flag = False
    step: Annotated[Number, Field(gt=0, le=0.5)] | None = None
    seed: Annotated[Natural, Field(lt=2**32)] = 0
    warm_start: Text | None = None
    stop: Stop = Stop()
    elite_soup: Flag = False


class Executor(Strict):
    """Where candidates are merged and scored.

    Attributes:
        kind: `ray` for worker processes, `inline` for this process.
        workers: Worker processes; when absent one for each GPU, or by memory and cores.
        threads: CPU threads of each worker; the cores divided among workers when absent.
        address: Address of a running Ray cluster; a local Ray is started when absent.
    """

    kind: Literal["ray", "inline"] = "ray"
    workers: Positive | None = None
    threads: Positive | None = None
    address: Text | None = None


class SearchRecipe(Strict):
    """One search: sources, scoring, space, strategy and where it runs.

    Attributes:
        version: Version of this format.
        base: The model task vectors are measured from.
        sources: The models to merge.
        evaluation: How candidates are scored.
        genome: Which merges the search can reach.
        search: How candidates are proposed.
        executor: Where candidates are merged and scored.
        dtype: What merged models are stored in; `base` keeps each tensor's dtype of the base.
        calibration: Texts that the models are run on, for operators and priors that measure them.
        refine: How the winner is refined by distillation; null leaves it as it is.
    """

    version: Literal[1] = 1
    base: Text
    sources: Sources
    evaluation: Evaluation
    genome: GenomeSpace = GenomeSpace()
    search: Strategy = Strategy()
    executor: Executor = Executor()
    dtype: Dtype = "base"
    calibration: CalibrationSettings | None = None
    refine: Refinement | None = None

    @model_validator(mode="after")
    def _has_gpus_whose_hours_count(self) -> Self:
        if self.search.stop.gpu_hours is not None and self.evaluation.device == "cpu":
            raise ValueError(
                "search.stop.gpu_hours never ends a search with evaluation.device cpu; "
                "give hours or wall_hours"
            )
        return self
