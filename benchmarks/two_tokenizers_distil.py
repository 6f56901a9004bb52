"""A student learns from a teacher with another tokenizer, or from the texts alone.

After `python benchmarks/two_tokenizers.py`, which writes teacher and texts: the student is trained
on the same tokens by each way of `WAYS`, and the bits per byte of the paragraphs held out are
compared with those of the training on texts alone, by a bootstrap over paragraphs. With
`--validation` each way ends with the weights of its least loss on texts set aside. What is trained
is kept under `--root`, so that a run that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path
from typing import Any

import torch

from evomerge.live_model import load_model, named_weights
from evomerge.merging.resident import ResidentWeights
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe.distillation import Teacher
from evomerge.recipe.merge import MergeRecipe, Source
from evomerge.recipe.refine import Refinement
from evomerge.refinement.distil import distil
from evomerge.refinement.distillation import Distillation

WAYS: dict[str, dict[str, Any] | None] = {
    "texts alone": None,
    "spans": {"alignment": {"kind": "spans"}},
    "prefixes": {"alignment": {"kind": "prefixes"}},
    "prefixes, half": {
        "alignment": {"kind": "prefixes"},
        "loss": {"distillation": 0.5, "cross_entropy": 0.5},
    },
    "prefixes, a tenth": {
        "alignment": {"kind": "prefixes"},
        "loss": {"distillation": 0.1, "cross_entropy": 0.9},
    },
    "prefixes, tail by text": {"alignment": {"kind": "prefixes"}, "loss": {"tail": "text"}},
    "prefixes, half, tail by text": {
        "alignment": {"kind": "prefixes"},
        "loss": {"distillation": 0.5, "cross_entropy": 0.5, "tail": "text"},
    },
    "spans, tail by text": {"alignment": {"kind": "spans"}, "loss": {"tail": "text"}},
    "spans, half, tail by text": {
        "alignment": {"kind": "spans"},
        "loss": {"distillation": 0.5, "cross_entropy": 0.5, "tail": "text"},
    },
    "fusellm": {"preset": "fusellm"},
    "infifusion": {"preset": "infifusion"},
    "infifusion, by position": {"preset": "infifusion", "alignment": {"kind": "position"}},
    "alm": {"loss": {"kind": "alm"}},
}
DRAWS = 10_000


def write_texts(root: Path, count: int, characters: int) -> Path:
    """Write the first of the texts to refine with, cut at a word."""
    lines = (root / "refine.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    file = root / f"refine-{count}-{characters}.jsonl"
    texts = [json.loads(line)["text"][:characters].rpartition(" ")[0] for line in lines]
    file.write_text(
        "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts),
        encoding="utf-8",
    )
    return file


def read_held_out(options: argparse.Namespace) -> list[str]:
    """Paragraphs of other sections, and, if wanted, those of the same ones that nobody reads."""
    held_out = (options.root / "held-out.txt").read_text(encoding="utf-8").splitlines()
    lines = (options.root / "refine.jsonl").read_text(encoding="utf-8").splitlines()
    unread = lines[options.texts : options.texts + options.unread]
    found: list[str] = held_out[: options.held_out]
    return found + [json.loads(line)["text"] for line in unread]


def student_of(folder: Path) -> MergeRecipe:
    """The student as it is, as a merge."""
    return MergeRecipe(
        base=str(folder),
        sources=(Source(model=str(folder)),),
        operator="task_arithmetic",
        parameters={"weight": 1.0},
    )


def train(options: argparse.Namespace, texts: Path, way: str, seed: int) -> Distillation:
    """One student to be trained."""
    settings = {
        "data": {"path": str(texts), "max_tokens": 256, "validation": options.validation},
        "cache": {"k": 10 if way == "fusellm" else 64},
        "train": {
            "rank": 16,
            "rate": options.rate,
            "epochs": options.epochs,
            "batch_tokens": 256,
            "pass_tokens": 256,
            "checkpoints": 2 * options.epochs if options.validation else 1,
            "seed": seed,
        },
    }
    teacher = Teacher(model=str(options.root / "teacher"), name="gemma")
    name = way.replace(",", "").replace(" ", "-")
    return Distillation(
        student=student_of(options.student.resolve()),
        teachers=() if WAYS[way] is None else (teacher,),
        settings=Refinement.model_validate(settings | (WAYS[way] or {})),
        folder=str(
            options.root
            / "students"
            / f"{texts.stem}-{options.epochs}-{options.validation:g}-{name}-{seed}"
        ),
        device="cpu",
        dtype="float32",
        threads=1,
    )


def bits(model: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """Bits of each text, read after a beginning of its own; shape `(texts,)`."""
    found = []
    for text in texts:
        own = tokenizer(text, add_special_tokens=False).input_ids
        ids = torch.tensor([[tokenizer.bos_token_id, *own]])
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
        nats = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
        found.append(float(nats) / math.log(2))
    return torch.tensor(found, dtype=torch.float64)


def interval(difference: torch.Tensor, sizes: torch.Tensor) -> tuple[float, float, float]:
    """Bits per byte of a difference, and its 95 % interval over texts."""
    rng = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(sizes), (DRAWS, len(sizes)), generator=rng)
    means = difference[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(difference.sum() / sizes.sum()), low, high


def read_options() -> argparse.Namespace:
    """What is to be compared."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path("runs/two-tokenizers"))
    parser.add_argument("--student", type=Path, default=Path("runs/quickstart-family/base"))
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--characters", type=int, default=400)
    parser.add_argument("--held-out", type=int, default=30)
    parser.add_argument(
        "--unread", type=int, default=0, help="texts to refine with, left unread, held out too"
    )
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument(
        "--validation", type=float, default=0.0, help="share of the texts that chooses the weights"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    return parser.parse_args()


def main() -> None:
    """Train by all ways, and compare."""
    options = read_options()
    os.environ["HF_HUB_OFFLINE"] = "1"  # everything comes from packages
    torch.set_num_threads(1)
    texts = write_texts(options.root, options.texts, options.characters)
    held_out = read_held_out(options)
    sizes = torch.tensor([len(text.encode()) for text in held_out], dtype=torch.float64)
    model, tokenizer = load_model(options.student, torch.float32, torch.device("cpu"))
    file = options.root / f"bits-{len(held_out)}.json"
    if not file.exists():
        file.write_text(json.dumps(bits(model, tokenizer, held_out).tolist()))
    before = torch.tensor(json.loads(file.read_text()), dtype=torch.float64)
    print(f"before: {float(before.sum() / sizes.sum()):.4f} bits per byte", flush=True)
    differences: dict[str, list[torch.Tensor]] = {}
    for seed in range(options.seeds):
        alone = before
        for way in dict.fromkeys(["texts alone", *options.ways]):
            work = train(options, texts, way, seed)
            distilled = distil(work, lambda *_: None, lambda: False)
            file = Path(work.folder) / f"bits-{len(held_out)}.json"
            if not file.exists():
                library = SourceLibrary(Path("/"))
                weights = named_weights(model, library.model(work.student.base).headers)
                ResidentWeights(weights, library).merge(distilled.recipe)
                file.write_text(json.dumps(bits(model, tokenizer, held_out).tolist()))
            found = torch.tensor(json.loads(file.read_text()), dtype=torch.float64)
            alone = found if WAYS[way] is None else alone
            differences.setdefault(way, []).append(found - alone)
            mean, low, high = interval(found - alone, sizes)
            print(
                f"seed {seed}, {way}: {float(found.sum() / sizes.sum()):.4f} bits per byte, "
                f"{mean:+.4f} [{low:+.4f}, {high:+.4f}] against the texts alone; "
                f"{distilled.course['tokens']} tokens; {distilled.course['alignment']}",
                flush=True,
            )
    for way, seeds in differences.items():
        mean, low, high = interval(torch.stack(seeds).mean(0), sizes)
        print(f"all seeds, {way}: {mean:+.4f} [{low:+.4f}, {high:+.4f}] against the texts alone")


if __name__ == "__main__":
    main()
