"""What tests of the command line share: a search recipe for the tiny family, and results."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING
from unittest import mock

from students import write_texts

from evomerge.cli.main import main
from evomerge.cli.stopping import SIGNALS

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str


RECIPE = """\
base: {family}/base
sources:
  - {family}/one
  - {family}/two
  - {{model: {family}/base+{family}/lora, name: adapter}}
evaluation:
  include_path: {family}/tasks
  tasks: [tiny_choice, {{name: tiny_answer, weight: 0.5}}]
  items: {{search: 8, held_out: 12}}
genome: {{layer_groups: 2, components: [mlp]}}
search: {{strategy: {strategy}, candidates: 14, generation: 4, seed: 5}}
executor: {{kind: inline, threads: 1}}
"""


REFINE = """
refine:
  data: {{path: texts.jsonl}}
  teachers: [{{model: {family}/one}}, {{model: {family}/two}}]
  train: {{rate: 0.01, epochs: 1, batch_tokens: 256, pass_tokens: 128, rank: 4}}
"""


def write_refined_search(folder: Path, family: Path) -> Path:
    """A search recipe with a refinement by two of its sources, and its texts."""
    write_texts(folder / "texts.jsonl")
    file = folder / "search.yaml"
    text = RECIPE.format(family=family, strategy="random") + REFINE.format(family=family)
    file.write_text(text, encoding="utf-8")
    return file


def write_recipe(folder: Path, family: Path, strategy: str = "random") -> Path:
    file = folder / "search.yaml"
    file.write_text(RECIPE.format(family=family, strategy=strategy))
    return file


def run_cli(*arguments: object) -> Result:
    """Run `evomerge ARGUMENTS` in this process."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    code: object = None
    try:
        with (
            mock.patch.object(sys, "argv", ["evomerge", *map(str, arguments)]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            main()
    except SystemExit as ended:
        code = ended.code
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert isinstance(code, int)
    return Result(code=code, out=out.getvalue(), err=err.getvalue())
