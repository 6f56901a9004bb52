"""Whole merges to disk, paired with `mergekit-yaml`, on families of random weights.

    python benchmarks/merge_throughput.py --family small large [--method linear ties ...]

Each command runs as a process of its own, ours and mergekit's taking turns, with a warm page cache
and the same number of threads. The floor is the time to read every input and to write the output.
mergekit must be installed beside evomerge, or its command be named with --mergekit.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from evomerge.checkpoints import CheckpointWriter
from evomerge.operators.randomness import generator


@dataclass(frozen=True)
class Shape:
    """A Llama-like model, and how many siblings of it are merged."""

    hidden: int
    layers: int
    intermediate: int
    keys: int
    vocabulary: int
    siblings: int
    shard_bytes: int

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor by name."""
        found: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary, self.hidden)
        }
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            found |= {
                f"{prefix}.input_layernorm.weight": (self.hidden,),
                f"{prefix}.mlp.down_proj.weight": (self.hidden, self.intermediate),
                f"{prefix}.mlp.gate_proj.weight": (self.intermediate, self.hidden),
                f"{prefix}.mlp.up_proj.weight": (self.intermediate, self.hidden),
                f"{prefix}.post_attention_layernorm.weight": (self.hidden,),
                f"{prefix}.self_attn.k_proj.weight": (self.keys, self.hidden),
                f"{prefix}.self_attn.o_proj.weight": (self.hidden, self.hidden),
                f"{prefix}.self_attn.q_proj.weight": (self.hidden, self.hidden),
                f"{prefix}.self_attn.v_proj.weight": (self.keys, self.hidden),
            }
        head = (self.vocabulary, self.hidden)
        return {"lm_head.weight": head, **found, "model.norm.weight": (self.hidden,)}

    def config(self) -> dict[str, object]:
        """What config.json says."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.hidden // 64,
            "num_key_value_heads": self.keys // 64,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": False,
            "dtype": "bfloat16",
        }


FAMILIES = {
    "tiny": Shape(128, 3, 256, 64, 512, 2, 1 << 20),
    "small": Shape(768, 12, 2048, 768, 26_000, 3, 150_000_000),
    "large": Shape(2048, 22, 5632, 256, 32_000, 2, 1_000_000_000),
}

METHODS = {
    "linear": {"weight": 0.4},
    "task_arithmetic": {"weight": 0.4},
    "slerp": {"t": 0.4},
    "dare_ties": {"weight": 0.4, "density": 0.5},
    "ties": {"weight": 0.4, "density": 0.5},
    "della": {"weight": 0.4, "density": 0.5, "epsilon": 0.15},
}


def main() -> None:
    """Print one line per family and method."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/merge-throughput"))
    parser.add_argument("--out", type=Path, help="another disk for what is written")
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=["small"])
    parser.add_argument("--method", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--mergekit", default=str(Path(sys.executable).with_name("mergekit-yaml")))
    parser.add_argument("--only-ours", action="store_true")
    parser.add_argument("--build", choices=FAMILIES, help="only build this family")
    arguments = parser.parse_args()
    if arguments.build:
        build(FAMILIES[arguments.build], arguments.folder / arguments.build)
        return
    print("family  method            floor s    ours s  mergekit s   times  ours/floor  ours MB")
    for family in arguments.family:
        build(FAMILIES[family], arguments.folder / family)
        for method in arguments.method:
            compare(arguments, family, method)


def compare(arguments: argparse.Namespace, family: str, method: str) -> None:
    """Time one method, ours and theirs in turn."""
    folder = arguments.folder / family
    config = (folder / f"{method}.yaml").resolve()
    config.write_text(yaml.safe_dump(document(folder.resolve(), FAMILIES[family], method)))
    out = (arguments.out or folder) / "out"
    evomerge = [str(Path(sys.executable).with_name("evomerge")), "merge", str(config), str(out)]
    theirs = [arguments.mergekit, str(config), str(out), "--no-copy-tokenizer", "--quiet"]
    floors, ours, mergekits, peak = [], [], [], 0
    for _ in range(arguments.rounds):
        floors.append(floor(folder, FAMILIES[family], out))
        seconds, memory = run(evomerge, arguments.threads, out)
        ours.append(seconds)
        peak = max(peak, memory)
        if not arguments.only_ours:
            mergekits.append(run(theirs, arguments.threads, out)[0])
    low, mine = statistics.median(floors), statistics.median(ours)
    other = statistics.median(mergekits) if mergekits else float("nan")
    print(
        f"{family:<8}{method:<17}{low:>8.2f}{mine:>10.2f}{other:>12.2f}"
        f"{other / mine:>8.1f}{mine / low:>12.1f}{peak / 1e6:>9.0f}",
        flush=True,
    )


def run(command: list[str], threads: int, out: Path) -> tuple[float, int]:
    """Wall seconds and peak bytes of memory of a command and all its processes."""
    shutil.rmtree(out, ignore_errors=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    started, peak = time.perf_counter(), 0
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while child.poll() is None:
        peak = max(peak, sum(map(proportional_size, [child.pid, *children(child.pid)])))
        time.sleep(0.1)
    seconds = time.perf_counter() - started
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    shutil.rmtree(out)
    return seconds, peak


def children(process: int) -> list[int]:
    """Processes that a process and its threads have started."""
    files = Path(f"/proc/{process}/task").glob("*/children")
    with suppress(OSError):
        return [int(number) for file in files for number in file.read_text().split()]
    return []


def proportional_size(process: int) -> int:
    """Bytes in memory, what is shared divided by those who share it."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def floor(folder: Path, shape: Shape, out: Path) -> float:
    """Seconds to read every input once and to write as much as the output."""
    names = ["base", *(f"sibling{number}" for number in range(shape.siblings))]
    files = [sorted((folder / name).glob("*.safetensors")) for name in names]
    buffer = memoryview(bytearray(1 << 24))
    started = time.perf_counter()
    out.parent.mkdir(exist_ok=True)
    with out.with_suffix(".copy").open("wb") as target:
        for number, shards in enumerate(files):
            for shard in shards:
                with shard.open("rb", buffering=0) as stream:
                    while count := stream.readinto(buffer):
                        if number == 0:
                            target.write(buffer[:count])
        target.flush()
        os.fsync(target.fileno())
    seconds = time.perf_counter() - started
    out.with_suffix(".copy").unlink()
    return seconds


def document(folder: Path, shape: Shape, method: str) -> dict[str, object]:
    """The merge as mergekit writes it."""
    siblings = [str(folder / f"sibling{number}") for number in range(shape.siblings)]
    settings = METHODS[method]
    written: dict[str, object] = {"merge_method": method, "dtype": "bfloat16"}
    if method == "slerp":
        models = [str(folder / "base"), siblings[0]]
        return written | {
            "base_model": models[0],
            "models": [{"model": m} for m in models],
            "parameters": settings,
        }
    if method != "linear":
        written["base_model"] = str(folder / "base")
    return written | {"models": [{"model": m, "parameters": settings} for m in siblings]}


def build(shape: Shape, folder: Path) -> None:
    """Write the base and its siblings, once."""
    if (folder / "ready").exists():
        return
    tensors = {name: (torch.bfloat16, size) for name, size in shape.tensors().items()}
    names = ["base", *(f"sibling{number}" for number in range(shape.siblings))]
    config = json.dumps(shape.config()).encode()
    for number, name in enumerate(names):
        shutil.rmtree(folder / name, ignore_errors=True)
        with CheckpointWriter(folder / name, tensors, max_shard_bytes=shape.shard_bytes) as writer:
            for tensor, (_, size) in tensors.items():
                values = torch.randn(size, generator=named(tensor, 0)) * 0.02
                if number:
                    values += torch.randn(size, generator=named(tensor, number)) * 0.001
                writer.write(tensor, values.bfloat16())
            writer.add_file("config.json", config)
    (folder / "ready").touch()


def named(tensor: str, number: int) -> torch.Generator:
    """Random numbers of a tensor and a model."""
    return generator(number, "merge_throughput", tensor)


if __name__ == "__main__":
    main()
