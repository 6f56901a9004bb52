"""mergekit itself rebuilds our merges from our YAML, and we rebuild its merges from its YAML.

mergekit runs in the Python that EVOMERGE_ORACLE names, once for all cases.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_family import build_family

from evomerge.layout import layer_count
from evomerge.merging.export import export_checkpoint
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe import yaml
from evomerge.recipe.merge import MergeRecipe
from evomerge.recipe.mergekit.read import from_mergekit
from evomerge.run.export import mergekit_text

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

ORACLE = os.environ.get("EVOMERGE_ORACLE")

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.slow,
    pytest.mark.skipif(ORACLE is None, reason="EVOMERGE_ORACLE names no python with mergekit"),
]

MERGEKIT = """
import json, os, sys
import yaml
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

options = MergeOptions(
    lora_merge_cache="lora_cache", lora_merge_dtype="float32", copy_tokenizer=False,
    write_model_card=False, random_seed=0, quiet=True,
)
for text, models, out in json.load(open(sys.argv[1])):
    os.chdir(models)
    LoaderCache().loaders.clear()  # it knows models by their relative paths
    run_merge(MergeConfiguration.model_validate(yaml.safe_load(open(text))), out, options)
"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A merge that mergekit and we do.

    Attributes:
        family: Folder of the models.
        recipe: Ours, which mergekit gets as exported YAML.
        theirs: mergekit's YAML, which we read; instead of `recipe`.
        ulps: Largest difference, in units in the last place of what is stored; in float32, where
            the sources may cancel out, in the last place of a tensor's largest entry.
    """

    family: str
    recipe: dict[str, Any] | None = None
    theirs: str | None = None
    ulps: int = 0


def by_layer(values: list[float]) -> list[dict[str, Any]]:
    """One rule for each layer, with the MLP a tenth higher, and a last word."""
    rules = []
    for layer, value in enumerate(values):
        layers = [layer, layer + 1]
        rules.append({"value": value + 0.1, "layers": layers, "component": "mlp"})
        rules.append({"value": value, "layers": layers})
    return [*rules, {"value": 0.35, "component": "embedding"}, {"value": 0.65}]


SHALLOW = by_layer([0.2, 0.9, 0.4])
DEEP = by_layer([(i * 7 % 12) / 14 for i in range(12)])
COMPONENTS = [
    {"value": 0.15, "component": "attention"},
    {"value": 0.7, "component": "norm"},
    {"value": 0.3, "component": "head"},
    {"value": 0.55},
]


def recipe(operator: str, *sources: Any, dtype: str = "base", **parameters: Any) -> dict[str, Any]:
    return {
        "base": "base",
        "sources": list(sources or ("one", "two", "three")),
        "operator": operator,
        "parameters": parameters,
        "dtype": dtype,
    }


def of_source(model: str, **parameters: Any) -> dict[str, Any]:
    return {"model": model, "parameters": parameters}


THEIR_GRADIENTS = """
merge_method: ties
base_model: base
models:
  - model: base
  - model: one
    parameters:
      density: [1, 0.7, 0.1]
      weight: 1.0
  - model: two
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1]
  - model: three
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - filter: self_attn.q
          value: [0.1, 0.9]
        - value: 0
parameters:
  normalize: true
  int8_mask: true
dtype: float32
out_dtype: bfloat16
"""
THEIR_SLERP = """
merge_method: slerp
base_model: base
slices:
  - sources:
      - model: base
        layer_range: [0, 1]
      - model: one
        layer_range: [0, 1]
    parameters:
      t: [0.2, 0.8]
  - sources:
      - model: base
        layer_range: [1, 12]
      - model: one
        layer_range: [1, 12]
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
dtype: float32
"""
THEIR_LINEAR = """
merge_method: linear
base_model: base
models:
  - model: one
    parameters:
      weight: 1e-5
  - model: two+lora
parameters:
  weight: [0.25, 1, 0.5]
dtype: float32
out_dtype: float16
"""

CASES = {
    "linear": Case(family="shallow", recipe=recipe("linear", weight=0.5)),
    "linear by layer": Case(
        family="deep",
        recipe=recipe("linear", of_source("one", weight=DEEP), "two", weight=0.25),
    ),
    "linear, the base included": Case(
        family="shallow", recipe=recipe("linear", "base", "one", weight=COMPONENTS)
    ),
    "linear, not normalized": Case(
        family="deep", recipe=recipe("linear", weight=0.3, normalize=False, dtype="float16")
    ),
    "task arithmetic": Case(
        family="deep", recipe=recipe("task_arithmetic", weight=0.4, scale=0.9)
    ),
    "task arithmetic by layer": Case(
        family="shallow",
        recipe=recipe(
            "task_arithmetic", of_source("one", weight=SHALLOW), "two", weight=-0.2, scale=1.2
        ),
    ),
    "task arithmetic with an adapter": Case(
        family="shallow", recipe=recipe("task_arithmetic", "base+lora", "one", weight=SHALLOW)
    ),
    "task arithmetic with an adapter, untied": Case(
        family="deep",
        recipe=recipe("task_arithmetic", "base+lora", "two", weight=0.6, dtype="bfloat16"),
    ),
    "ties": Case(family="shallow", recipe=recipe("ties", weight=1, density=0.2)),
    "ties by layer": Case(
        family="deep",
        recipe=recipe(
            "ties",
            of_source("one", weight=DEEP, density=COMPONENTS),
            of_source("two", weight=0.5),
            of_source("three", weight=0.8, density=0.9),
            density=DEEP,
            normalize=[{"value": False, "layers": [10, 11]}, {"value": True}],
        ),
    ),
    "ties by component": Case(
        family="shallow",
        recipe=recipe("ties", weight=COMPONENTS, density=0.5, scale=1.5, normalize=False),
    ),
    "slerp": Case(family="shallow", recipe=recipe("slerp", "base", "one", t=0.3), ulps=1),
    "slerp by layer": Case(family="deep", recipe=recipe("slerp", "one", "two", t=DEEP), ulps=2),
    "slerp by component": Case(
        family="deep", recipe=recipe("slerp", "two", "one", t=COMPONENTS, dtype="bfloat16"), ulps=1
    ),
    "their gradients": Case(family="deep", theirs=THEIR_GRADIENTS),
    "their slerp": Case(family="deep", theirs=THEIR_SLERP, ulps=2),
    "their linear": Case(family="shallow", theirs=THEIR_LINEAR),
}


def read_or_make(case: Case, library: SourceLibrary) -> MergeRecipe:
    if case.theirs is None:
        return MergeRecipe.model_validate(case.recipe)
    document = yaml.parse(case.theirs, "m.yaml")
    return from_mergekit(document, layer_count(library.model("base").headers))


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what mergekit made of each case."""
    root = tmp_path_factory.mktemp("oracle")
    build_family(root / "shallow", layers=3, tied=True, dtype="bfloat16")
    build_family(root / "deep", layers=12, tied=False, dtype="float32")
    jobs = []
    for name, case in CASES.items():
        library = SourceLibrary(root / case.family)
        text = case.theirs or mergekit_text(read_or_make(case, library), library)[0]
        (root / f"{name}.yaml").write_text(text)
        folders = (str(root / case.family), str(root / "theirs" / name))
        jobs.append((str(root / f"{name}.yaml"), *folders))
    (root / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [str(ORACLE), "-c", MERGEKIT, str(root / "jobs.json")],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return root


def load_model(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    return {name: t for file in files for name, t in load_file(file).items()}


def within(one: Tensor, other: Tensor, ulps: int) -> bool:
    """Whether the largest difference is this small; see `Case.ulps`."""
    if ulps and one.dtype == torch.float32:
        place = torch.finfo(one.dtype).eps * float(one.abs().max())
        return float((one - other).abs().max()) <= ulps * place
    return steps_apart(one, other) <= ulps


def steps_apart(one: Tensor, other: Tensor) -> int:
    """Largest number of steps between neighbouring floating-point numbers."""
    whole = {2: torch.int16, 4: torch.int32}[one.element_size()]
    ordered = []
    for tensor in (one, other):
        bits = tensor.contiguous().view(whole).to(torch.int64)
        ordered.append(
            torch.where(bits < 0, -(bits & (2 ** (8 * one.element_size() - 1) - 1)), bits)
        )
    return int((ordered[0] - ordered[1]).abs().max())


@pytest.mark.parametrize("name", CASES)
def test_mergekit_and_we_make_the_same_tensors(name, merged, tmp_path):
    case = CASES[name]
    library = SourceLibrary(merged / case.family)
    export_checkpoint(read_or_make(case, library), library, tmp_path / "ours")
    ours, theirs = load_model(tmp_path / "ours"), load_model(merged / "theirs" / name)
    assert ours.keys() == theirs.keys()
    for tensor, value in ours.items():
        assert value.dtype == theirs[tensor].dtype, tensor
        assert within(value, theirs[tensor], case.ulps), tensor
