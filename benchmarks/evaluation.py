"""Wall time of one candidate, from recipe to scores: ours against what else one would do.

    python benchmarks/evaluation.py [--family random quickstart] [--rounds 3] [--threads 1]

| way | what is done for every candidate |
| --- | --- |
| evolve | as mergekit-evolve does, imports not counted: merge to disk, load, `simple_evaluate` |
| resident | `simple_evaluate` on a model that stays loaded |
| ours | merge into a model that stays loaded, and score it |
| bare | forward passes of the tokens that have to be read, without padding, and nothing else |

All ways take turns in every round. `evolve` needs mergekit: name a python that has it and lm-eval.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from evomerge.evaluation.passes.answers import AnswerPlan

QUICKSTART = Path("runs/quickstart-family")
RANDOM = Path("runs/evaluation-family")
SHAPE = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 10,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}
WORDS = [
    "river",
    "stone",
    "paper",
    "green",
    "under",
    "seven",
    "apple",
    "light",
    "house",
    "window",
    "morning",
    "never",
]

FAMILIES: dict[str, dict[str, Any]] = {
    "random": {
        "base": RANDOM / "base",
        "sources": [RANDOM / "one", RANDOM / "two"],
        "include_path": RANDOM / "tasks",
        "tasks": {"random_choice": 50, "random_answer": 50},
    },
    "quickstart": {
        "base": QUICKSTART / "base",
        "sources": [QUICKSTART / "expert-french", QUICKSTART / "expert-words"],
        "include_path": QUICKSTART / "tasks",
        "tasks": {"quickstart_words": 60, "quickstart_python": 60, "quickstart_french": 60},
    },
}

PARAMETERS = {"task_arithmetic": {"weight": 0.5}, "ties": {"weight": 0.5, "density": 0.5}}
BATCH_SIZE = {"random_answer": 50, "quickstart_french": 50}  # else 16


def main() -> None:
    """Print one line per family, task and method."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--method", nargs="+", choices=PARAMETERS, default=list(PARAMETERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peer", help="python with mergekit and lm-eval; without it no evolve")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(json.loads(arguments.serve))
        return
    print(
        "family      task               method           evolve s  resident s    ours s    bare s"
    )
    for family in arguments.family:
        if family == "random":
            build()
        for task in FAMILIES[family]["tasks"]:
            for method in arguments.method:
                compare(family, task, method, arguments)


def compare(family: str, task: str, method: str, options: argparse.Namespace) -> None:
    """Time all ways of one task."""
    import torch

    torch.set_num_threads(options.threads)
    setting = {
        **{key: str(value) for key, value in FAMILIES[family].items() if key != "tasks"},
        "sources": [str(source) for source in FAMILIES[family]["sources"]],
        "task": task,
        "items": FAMILIES[family]["tasks"][task],
        "method": method,
        "threads": options.threads,
    }
    ways = {"resident": resident(setting), "ours": (mine := Ours(setting)), "bare": mine.bare}
    if options.peer:
        ways["evolve"] = Peer(options.peer, setting)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(options.rounds + 1):
        for way, run in ways.items():
            started = time.perf_counter()
            told = run()
            taken = time.perf_counter() - started if told is None else told
            if number:  # the first round fills caches and compiles
                seconds[way].append(taken)
    median = {way: statistics.median(values) for way, values in seconds.items()}
    times = [median.get(way, float("nan")) for way in ("evolve", "resident", "ours", "bare")]
    print(
        f"{family:<12}{task:<19}{method:<16}" + "".join(f"{value:>10.2f}" for value in times),
        f"  {times[0] / times[2]:.1f} {times[1] / times[2]:.1f} {times[2] / times[3]:.2f}",
        flush=True,
    )


class Ours:
    """Merge into a live model and score it."""

    def __init__(self, setting: dict[str, Any]) -> None:
        import torch

        from evomerge.evaluation.backends.hf import HfBackend
        from evomerge.evaluation.evaluator import ResidentEvaluator
        from evomerge.evaluation.tasks.items import TaskItems
        from evomerge.evaluation.tasks.lm_eval_tasks import TaskSpec
        from evomerge.live_model import load_model
        from evomerge.merging.resident import ResidentWeights
        from evomerge.merging.sources import SourceLibrary
        from evomerge.recipe.merge import MergeRecipe

        library = SourceLibrary(Path())
        base = library.model(setting["base"])
        model, tokenizer = load_model(base.folder, torch.float32, torch.device("cpu"))
        items = tuple(range(setting["items"]))
        spec = TaskSpec(name=setting["task"], include_path=setting["include_path"])
        backend = HfBackend(model, tokenizer, 2048)
        self._weights = ResidentWeights(backend.weights(base), library)
        self._evaluator = ResidentEvaluator(
            backend, [spec], [TaskItems(task=setting["task"], search=items, held_out=items)]
        )
        self._recipe = MergeRecipe.model_validate(
            {
                "base": setting["base"],
                "sources": setting["sources"],
                "operator": setting["method"],
                "parameters": PARAMETERS[setting["method"]],
            }
        )
        self._model, self._rounds = model, 0

    def __call__(self) -> None:
        """Merge and score."""
        # Another weight every time, so that there is something to merge.
        self._rounds += 1
        weight = 0.5 + self._rounds / 100
        parameters = {**self._recipe.parameters, "weight": weight}
        self._weights.merge(self._recipe.model_copy(update={"parameters": parameters}))
        self._evaluator.evaluate("search")

    def bare(self) -> float:
        """Seconds of the forward passes alone, of as many tokens in full batches."""
        (plan,) = self._evaluator.prepare("search")
        return bare_passes(self._model, cast("AnswerPlan", plan))


def bare_passes(model: Any, plan: AnswerPlan) -> float:
    """Seconds of forward passes over as many tokens as have to be read, in full batches."""
    import torch

    rows = [row for batch in plan.likelihoods.batches for row in batch.rows]
    read = sum(map(len, rows))
    scored = sum(len({place for places in row.predicting() for place in places}) for row in rows)
    with torch.inference_mode():
        started = time.perf_counter()
        if rows:
            length = round(read / len(rows))
            for few in full_batches(len(rows), max(1, 2048 // length)):
                ids = torch.ones(few, length, dtype=torch.long)
                hidden = model.base_model(ids, use_cache=False).last_hidden_state
                model.lm_head(hidden.reshape(few * length, -1)[: scored * few // len(rows)])
        if plan.prompts:
            bare_generation(model, plan.prompts)
        return time.perf_counter() - started


def full_batches(rows: int, most: int) -> list[int]:
    """Rows of each batch: the most, and what is left."""
    return [min(most, rows - start) for start in range(0, rows, most)]


def bare_generation(model: Any, prompts: list[Any]) -> None:
    """A greedy loop over all prompts at once, as long as the longest answer may be."""
    import torch
    from transformers import DynamicCache

    length = round(statistics.mean(len(prompt.inputs) for prompt in prompts))
    ids, cache = torch.ones(len(prompts), length, dtype=torch.long), DynamicCache()
    for _ in range(max(prompt.max_new_tokens for prompt in prompts)):
        hidden = model.base_model(ids, past_key_values=cache, use_cache=True).last_hidden_state
        ids = model.lm_head(hidden[:, -1:]).argmax(-1)


def resident(setting: dict[str, Any]) -> Any:
    """lm-eval on a model that stays loaded."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(setting["base"], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(setting["base"])
    return lambda: evaluate(setting, model, tokenizer)


def evaluate(setting: dict[str, Any], model: Any, tokenizer: Any) -> None:
    """`simple_evaluate` with its own defaults."""
    import logging

    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    size = BATCH_SIZE.get(setting["task"], 16)
    with contextlib.redirect_stderr(io.StringIO()):
        simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size),
            tasks=[setting["task"]],
            task_manager=TaskManager(include_path=setting["include_path"], include_defaults=False),
            samples={setting["task"]: list(range(setting["items"]))},
            bootstrap_iters=0,
            log_samples=False,
        )


class Peer:
    """mergekit-evolve's steps in a process of their own that stays."""

    def __init__(self, python: str, setting: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [python, __file__, "--serve", json.dumps(setting)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(setting["threads"])},
        )

    def __call__(self) -> float:
        """Seconds of one candidate."""
        if self._process.stdin is None or self._process.stdout is None:
            raise SystemExit("the peer has no pipes")
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("seconds "):
                return float(line.split()[1])
        raise SystemExit("the peer has died; does its python have mergekit and lm-eval?")


def serve(setting: dict[str, Any]) -> None:
    """Merge, load and evaluate once per line of the standard input."""
    import torch
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(setting["threads"])
    parameters = PARAMETERS[setting["method"]]
    for number, _ in enumerate(sys.stdin):
        started = time.perf_counter()
        settings = {**parameters, "weight": 0.5 + number / 100}
        document = {
            "merge_method": setting["method"],
            "base_model": setting["base"],
            "models": [{"model": s, "parameters": settings} for s in setting["sources"]],
            "dtype": "bfloat16",
        }
        with tempfile.TemporaryDirectory() as out:
            config = MergeConfiguration.model_validate(yaml.safe_load(json.dumps(document)))
            run_merge(config, out, MergeOptions(copy_tokenizer=True, quiet=True))
            model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
            evaluate(setting, model, AutoTokenizer.from_pretrained(setting["base"]))
        print(f"seconds {time.perf_counter() - started}", flush=True)


def build() -> None:
    """A Llama of 57 M parameters with random weights, two siblings, and two tasks."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from evomerge.operators.randomness import generator

    if (RANDOM / "tasks").is_dir():
        return
    tokenizer = AutoTokenizer.from_pretrained(QUICKSTART / "base")
    config = LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **SHAPE)
    for seed, name in enumerate(("base", "one", "two")):
        model = LlamaForCausalLM(config)
        for tensor, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.data = torch.randn(weight.shape, generator=generator(seed, tensor)) * 0.02
        model.to(torch.bfloat16).save_pretrained(RANDOM / name)
        tokenizer.save_pretrained(RANDOM / name)
    (RANDOM / "tasks").mkdir()
    rng = random.Random(0)  # noqa: S311
    documents = [
        {
            "question": " ".join(rng.choices(WORDS, k=68)),
            "choices": [" ".join(rng.choices(WORDS, k=rng.randint(5, 8))) for _ in range(4)],
            "label": 0,
        }
        for _ in range(100)
    ]
    data = (RANDOM / "documents.jsonl").resolve()
    data.write_text("\n".join(map(json.dumps, documents)))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(data)}},
        "validation_split": "validation",
        "test_split": "validation",
        "doc_to_text": "{{question}}",
    }
    choice = {
        "task": "random_choice",
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc"}],
    }
    answer = {
        "task": "random_answer",
        "output_type": "generate_until",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["\n\n"], "do_sample": False, "max_gen_toks": 32},
        "metric_list": [{"metric": "exact_match"}],
    }
    for task in (choice, answer):
        (RANDOM / "tasks" / f"{task['task']}.yaml").write_text(json.dumps(common | task))


if __name__ == "__main__":
    main()
