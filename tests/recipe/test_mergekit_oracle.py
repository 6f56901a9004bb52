"""mergekit itself rebuilds our merges from our YAML, and we rebuild its merges from its YAML.

mergekit runs in the Python that EVOMERGE_ORACLE names, once for all cases.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from mergekit_process import NEEDED, run_mergekit
from recipe.mergekit_cases import CASES, Case
from recipe.mergekit_compat_cases import COMPAT
from recipe.mergekit_lineage_cases import LINEAGES
from tiny_family import build_family, load_tensors

from evomerge.layout import layer_count
from evomerge.merging.export import export_checkpoint
from evomerge.merging.sources import SourceLibrary
from evomerge.recipe import yaml
from evomerge.recipe.merge import MergeRecipe
from evomerge.recipe.mergekit.read import from_mergekit
from evomerge.run.merges.mergekit_text import mergekit_text

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

pytestmark = NEEDED

MERGEKIT = """
import json, os, sys
import yaml
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

for text, models, out, seed in json.load(open(sys.argv[1])):
    options = MergeOptions(
        lora_merge_cache="lora_cache", lora_merge_dtype="float32", copy_tokenizer=False,
        write_model_card=False, random_seed=seed, quiet=True,
    )
    os.chdir(models)
    # Stages come first and are folders beside the models, as for mergekit-multi.
    documents = sorted(yaml.safe_load_all(open(text)), key=lambda d: "name" not in d)
    for document in documents:
        LoaderCache().loaders.clear()  # it knows models by their relative paths
        folder = document.pop("name", out)
        run_merge(MergeConfiguration.model_validate(document), folder, options)
"""


ALL = {**CASES, **COMPAT, **LINEAGES}


def read_or_make(case: Case, library: SourceLibrary) -> MergeRecipe:
    if case.theirs is None:
        return MergeRecipe.model_validate(case.recipe)
    documents = yaml.parse_all(case.theirs, "m.yaml")
    layers = layer_count(library.model("base").headers)
    return from_mergekit(documents, lambda _: layers, compat=case.compat, seed=case.seed).recipe


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what mergekit made of each case."""
    root = tmp_path_factory.mktemp("oracle")
    build_family(root / "shallow", layers=3, tied=True, dtype="bfloat16")
    build_family(root / "deep", layers=12, tied=False, dtype="float32")
    jobs = []
    for name, case in ALL.items():
        library = SourceLibrary(root / case.family)
        text = case.theirs or mergekit_text(read_or_make(case, library), library)[0]
        (root / f"{name}.yaml").write_text(text)
        folders = (str(root / case.family), str(root / "theirs" / name))
        jobs.append((str(root / f"{name}.yaml"), *folders, case.seed))
    (root / "jobs.json").write_text(json.dumps(jobs))
    run_mergekit(MERGEKIT, root / "jobs.json")
    return root


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


@pytest.mark.parametrize("name", ALL)
def test_mergekit_and_we_make_the_same_tensors(name, merged, tmp_path):
    case = ALL[name]
    library = SourceLibrary(merged / case.family)
    export_checkpoint(read_or_make(case, library), library, tmp_path / "ours")
    ours, theirs = load_tensors(tmp_path / "ours"), load_tensors(merged / "theirs" / name)
    assert ours.keys() == theirs.keys()
    for tensor, value in ours.items():
        assert value.dtype == theirs[tensor].dtype, tensor
        assert within(value, theirs[tensor], case.ulps), tensor
