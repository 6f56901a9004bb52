"""A local lm-eval task whose metric runs the answers, as humaneval's does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from evomerge.evaluation.tasks.lm_eval_tasks import TaskSpec

if TYPE_CHECKING:
    from pathlib import Path

METRIC = """
def passed(references, predictions):
    names = {}
    try:
        exec(predictions[0], names)
        exec(references[0], names)
    except Exception:
        return {"pass@1": 0.0}
    return {"pass@1": 1.0}
"""


def write_program_task(folder: Path, items: int = 2) -> None:
    """Write the task `programs` and its documents."""
    folder.mkdir()
    documents = [
        {"question": f"Double {n}.", "test": f"assert double({n}) == {2 * n}"}
        for n in range(1, items + 1)
    ]
    (folder / "programs.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (folder / "utils.py").write_text(METRIC)
    (folder / "programs.yaml").write_text(f"""
task: programs
unsafe_code: true
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/programs.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{test}}}}"
generation_kwargs: {{until: ["\\n\\n"], max_gen_toks: 4, do_sample: false}}
metric_list:
  - {{metric: !function utils.passed, aggregation: mean, higher_is_better: true}}
""")


def program_task(folder: Path) -> TaskSpec:
    """The task, with all that it asks for allowed."""
    return TaskSpec(
        name="programs", include_path=str(folder), allow_code=True, allow_generated_code=True
    )
