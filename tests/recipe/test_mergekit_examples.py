"""Files as mergekit's documentation writes them are merged to mergekit's bytes as they stand.

mergekit runs in the Python that EVOMERGE_ORACLE names, once for all files.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from mergekit_process import MARKS, run_mergekit
from tiny_family import build_family, load_tensors

from evomerge.run.merges.merge import merge_file

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = MARKS

SEED = 5

MERGEKIT = """
import os, sys
import yaml
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

os.chdir(sys.argv[1])
options = MergeOptions(random_seed=int(sys.argv[2]), write_model_card=False, quiet=True)
for name in sys.argv[3:]:
    # Stages are folders beside the models, as for mergekit-multi.
    for document in yaml.safe_load_all(open(name + ".yml")):
        LoaderCache().loaders.clear()
        folder = document.pop("name", "theirs-" + name)
        run_merge(MergeConfiguration.model_validate(document), folder, options)
"""

EXAMPLES = {
    "linear": """
models:
  - model: one
    parameters:
      weight: 1.0
  - model: two
    parameters:
      weight: 0.3
  - model: three
    parameters:
      weight: 0.5
base_model: one
merge_method: linear
dtype: float16
""",
    "gradient-slerp": """
slices:
  - sources:
      - model: base
        layer_range: [0, 4]
      - model: one
        layer_range: [0, 4]
merge_method: slerp
base_model: base
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5 # fallback for rest of tensors
dtype: float16
""",
    "ties": """
models:
  - model: one
    parameters:
      density: [1, 0.7, 0.1] # density gradient
      weight: 1.0
  - model: two
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1] # weight gradient
  - model: three
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: base
parameters:
  normalize: true
  int8_mask: true
dtype: float16
""",
    "dare": """
models:
  - model: base
    # No parameters necessary for base model
  - model: one
    parameters:
      density: 0.53
      weight: 0.4
  - model: two
    parameters:
      density: 0.53
      weight: 0.3
merge_method: dare_ties
base_model: base
parameters:
  int8_mask: true
dtype: bfloat16
""",
    "frankenmerge": """
slices:
  - sources:
    - model: one
      layer_range: [0, 3]
  - sources:
    - model: two
      layer_range: [1, 4]
merge_method: passthrough
base_model: one
dtype: float16
""",
    "stages": """
name: stage-one
merge_method: task_arithmetic
base_model: base
models:
  - model: one
    parameters:
      weight: 0.6
  - model: two
    parameters:
      weight: 0.4
dtype: bfloat16
---
merge_method: slerp
base_model: stage-one
models:
  - model: stage-one
  - model: three
parameters:
  t: 0.4
dtype: bfloat16
""",
    "tokenizer": """
models:
  - model: one
    parameters:
      weight: 0.5
  - model: two
    parameters:
      weight: 0.5
merge_method: linear
base_model: one
tokenizer_source: union
dtype: float32
out_dtype: bfloat16
""",
    "model-stock": """
models:
  - model: one
  - model: two
  - model: three
merge_method: model_stock
base_model: base
dtype: bfloat16
""",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models, the files and what mergekit made of each."""
    root = tmp_path_factory.mktemp("examples")
    build_family(root, layers=4)
    for name, text in EXAMPLES.items():
        (root / f"{name}.yml").write_text(text)
    run_mergekit(MERGEKIT, root, SEED, *EXAMPLES)
    return root


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_file_of_mergekit_s_becomes_mergekit_s_model(
    name: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(models)
    merge_file(models / f"{name}.yml", tmp_path / "ours", compat=True, seed=SEED)
    ours, theirs = load_tensors(tmp_path / "ours"), load_tensors(models / f"theirs-{name}")
    assert ours.keys() == theirs.keys()
    for tensor, value in ours.items():
        assert value.dtype == theirs[tensor].dtype, tensor
        assert torch.equal(value, theirs[tensor]), tensor
    configs = [tmp_path / "ours" / "config.json", models / f"theirs-{name}" / "config.json"]
    sizes = [json.loads(config.read_text()) for config in configs]
    for key in ("num_hidden_layers", "vocab_size", "tie_word_embeddings"):
        assert sizes[0].get(key) == sizes[1].get(key)
