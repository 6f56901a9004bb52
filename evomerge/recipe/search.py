"""SearchRecipe: what a search merges, how it proposes, scores and runs candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from evomerge.recipe.calibration import CalibrationSettings
from evomerge.recipe.merge import Dtype, Sources
from evomerge.recipe.refine import Refinement
from evomerge.recipe.schema import Flag, Natural, Number, Positive, Seed, Strict, Text
from evomerge.recipe.space import GenomeSpace

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


class Stop(Strict):
    """When a search ends before its candidates are used up; whichever comes first.

    Attributes:
        patience: After so many generations without a better best candidate.
        target: When a candidate's fitness is as high as this on all search items.
        hours: After so many hours of work on candidates that did not fail, of all workers
            together.
        wall_hours: After so many hours by the clock on the wall, in all processes that searched in
            the run's folder one after the other.
        gpu_hours: After the workers have held GPUs for so many hours, all GPUs together.
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
    seed: Seed = 0
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
