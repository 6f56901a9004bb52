"""Builds the quickstart family: a real base model and three experts, each trained on one skill."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from conversion import PACKAGE, convert_base
from experts import write_adapter, write_checkpoint
from filelock import FileLock
from items import Item, split, write_items
from refining import write_refine_items
from skills import SKILLS
from training import LayerwiseTrainer, TrainingPlan, encode

from evomerge.operators.randomness import generator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from training import LowRank

TEMPLATES = Path(__file__).parent / "tasks"
MARKER = "complete.json"
EVAL_COUNT = 320
REFINE_COUNT = 320
# French is by far the hardest: it is generated, letter for letter.
TRAIN_COUNTS = {"french": 640, "words": 320, "python": 240}


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What the family is made of; a family built from other settings is another family."""

    plan: TrainingPlan
    train_counts: dict[str, int] = field(default_factory=TRAIN_COUNTS.copy)
    eval_count: int = EVAL_COUNT


class Stages:
    """The CPU seconds that each stage took, printed as it ends."""

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measures the body of the `with` statement."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.cpu_s[name] = round(time.process_time() - cpu, 1)
        wall_s = time.perf_counter() - wall
        print(f"{name}: {wall_s:.1f} s, {self.cpu_s[name]:.1f} s of CPU", flush=True)


def build(out: Path, settings: Settings) -> None:
    """Builds the family in a folder beside `out`, which it becomes when all of it is there.

    A build that was cut off is taken up after the base model; a family that is complete is
    left alone.
    """
    if (out / MARKER).exists():
        _check_settings(out, settings)
        write_tasks(out / "tasks", out / "data")
        add_refine_items(out / "data", settings)
        print(f"{out} is complete")
        return
    if out.exists():
        raise SystemExit(f"{out} is not a quickstart family: move it or choose another --out")
    work = out.with_name(f"{out.name}.partial")
    work.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(work)
    stages = Stages()
    if not (work / "base").exists():
        with stages.stage("base"):
            convert_base(work / "base.partial")
            (work / "base.partial").rename(work / "base")
    with stages.stage("data"):
        training_items = write_data(work / "data", settings)
        add_refine_items(work / "data", settings)
        write_tasks(work / "tasks", out / "data")
    train_experts(work, training_items, settings, stages)
    _write_marker(work, settings, stages)
    work.rename(out)
    print(f"{out} is complete: {sum(stages.cpu_s.values()):.0f} s of CPU")


def write_data(folder: Path, settings: Settings) -> dict[str, list[Item]]:
    """Writes every skill's items and returns those to train on."""
    folder.mkdir(exist_ok=True)
    training_items = {}
    for skill in SKILLS:
        training, evaluation = split(
            skill.groups(),
            train_count=settings.train_counts[skill.name],
            eval_count=settings.eval_count,
            seed=f"{settings.plan.seed}:{skill.name}",
        )
        write_items(training, folder / f"{skill.name}-train.jsonl")
        write_items(evaluation, folder / f"{skill.name}-eval.jsonl")
        training_items[skill.name] = training
    return training_items


def add_refine_items(folder: Path, settings: Settings) -> None:
    """Writes what a merge can be refined with; a family built earlier may lack it."""
    write_refine_items(folder, SKILLS, count=REFINE_COUNT, seed=settings.plan.seed)


def write_tasks(folder: Path, data: Path) -> None:
    """Fills the folder of the data into the lm-eval task templates."""
    folder.mkdir(exist_ok=True)
    # A family that was moved gets new paths; one that was not is left as it is, for its readers.
    for template in sorted(TEMPLATES.glob("*.yaml")):
        # lm-eval reads data files relative to where it is started, so the path is made absolute.
        text = template.read_text(encoding="utf-8").replace("DATA", str(data.resolve()))
        path = folder / template.name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def train_experts(
    work: Path, training_items: dict[str, list[Item]], settings: Settings, stages: Stages
) -> None:
    """Trains an expert for each skill and writes it in one of three forms."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(work / "base")
    model = AutoModelForCausalLM.from_pretrained(work / "base", dtype=torch.float32)
    trainer = LayerwiseTrainer(model, settings.plan.layers)
    for name, items in training_items.items():
        with stages.stage(f"expert {name}"):
            examples = encode(items, tokenizer)
            rng = generator(settings.plan.seed, "quickstart", name)
            write_expert(work, name, trainer.train(examples, settings.plan, rng), settings.plan)


def write_expert(work: Path, name: str, updates: dict[str, LowRank], plan: TrainingPlan) -> None:
    """Writes one expert; the three forms are those that users bring."""
    folder = work / f"expert-{name}"
    if name == "python":
        write_adapter(folder, updates, plan)
    else:
        write_checkpoint(folder, work / "base", updates, shards=2 if name == "words" else 1)


def _remove_unfinished(work: Path) -> None:
    """Removes what a build that was cut off left behind, except for a finished base model."""
    for path in sorted(work.iterdir()):
        if path.name != "base":
            shutil.rmtree(path, ignore_errors=True)


def _check_settings(out: Path, settings: Settings) -> None:
    found = json.loads((out / MARKER).read_text(encoding="utf-8"))["settings"]
    if found != asdict(settings):
        message = f"{out}: built with settings {found}, expected {asdict(settings)}: remove it"
        raise SystemExit(message)


def _write_marker(work: Path, settings: Settings, stages: Stages) -> None:
    packages = ("torch", "transformers", "gguf", PACKAGE, *(s.package for s in SKILLS))
    marker = {
        "settings": asdict(settings),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in packages if package},
        },
        "cpu_s": stages.cpu_s,
    }
    (work / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Reads the options and builds the family, once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart-family"))
    parser.add_argument("--seed", type=int, default=0, help="seeds the data and the training")
    parser.add_argument("--threads", type=int, default=1, help="threads that torch may use")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"  # everything comes from installed packages
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(mode=True)
    settings = Settings(plan=TrainingPlan(seed=options.seed))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    # Two builds at once would write over each other.
    with FileLock(options.out.with_name(f"{options.out.name}.lock")):
        build(options.out, settings)


if __name__ == "__main__":
    main()
