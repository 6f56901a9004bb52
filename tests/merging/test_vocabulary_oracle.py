"""mergekit and we give models of different vocabularies the same embeddings and the same head.

mergekit runs in the Python that EVOMERGE_ORACLE names, once for all cases. Rows are compared
token by token: mergekit numbers the new tokens of a union in the order of a hash map, so that
their ids differ from run to run.

Where we do not follow mergekit:

- It adds new ordinary tokens of a union as added tokens, which are cut out of the text before
  anything else: `her` splits `where`. We add their merge rules instead.
- It leaves bos, eos and pad ids of config.json as they were.
- With `source: base`, it adds the tokens of `tokens` to the very tokenizer that tells it what the
  base has: their embeddings become padding rows of the base, or it fails with a KeyError where
  there are none.
- It fails with a KeyError if a tokenizer has a token without an embedding, unless it is the
  base's, and with an IndexError if ids have holes.
- A token that some model lacks needs a source in `tokens`; without one it fails late.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from mergekit_process import NEEDED, run_mergekit
from safetensors.torch import load_file
from vocabulary_family import build_models, tokens_of

from evomerge.checkpoints import open_checkpoint
from evomerge.merging.vocabulary.alignment import align
from evomerge.recipe.merge import MergeRecipe

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

pytestmark = NEEDED

MERGEKIT = """
import json, os, sys
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

os.chdir(sys.argv[1])
options = MergeOptions(write_model_card=False, random_seed=0, quiet=True)
for name, settings in json.load(open("jobs.json")).items():
    run_merge(MergeConfiguration.model_validate(settings), "theirs " + name, options)
"""

TOKENS = {
    "<|im_start|>": {"source": {"kind": "model_token", "model": "base", "token": "hello"}},
    "cat": {"source": {"kind": "model_token", "model": "two", "token_id": 5}, "force": True},
    "dog": {"source": {"kind": "zero"}},
    "he": {"source": "two", "force": True},
    "<new>": {"source": {"kind": "model_token", "model": "one", "token": "Ġwo"}},
    "<zero>": {"source": {"kind": "zero"}},
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "union": ("linear", {"source": "union"}),
    "base": ("linear", {"source": "base"}),
    "model": ("linear", {"source": "two"}),
    "tokens": ("linear", {"source": "union", "tokens": TOKENS, "pad_to_multiple_of": 16}),
    "union of deltas": ("task_arithmetic", {"source": "union", "pad_to_multiple_of": 64}),
    "base of deltas": ("task_arithmetic", {"source": "base"}),
    "model of deltas": ("task_arithmetic", {"source": "one", "pad_to_multiple_of": 7}),
    "tokens of deltas": ("task_arithmetic", {"source": "one", "tokens": TOKENS}),
}
WEIGHTS = {"one": 0.75, "two": 0.5}


def their_recipe(operator: str, tokenizer: dict[str, Any]) -> dict[str, Any]:
    weights = WEIGHTS | ({"base": 0.0} if operator == "linear" else {})
    return {
        "merge_method": operator,
        "base_model": "base",
        "models": [{"model": m, "parameters": {"weight": w}} for m, w in weights.items()],
        "parameters": {"normalize": True} if operator == "linear" else {"lambda": 1.0},
        "dtype": "float32",
        "tokenizer": tokenizer,
    }


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models and what mergekit made of each case."""
    root = tmp_path_factory.mktemp("vocabulary")
    build_models(root)
    jobs = {name: their_recipe(*case) for name, case in CASES.items()}
    (root / "jobs.json").write_text(json.dumps(jobs))
    run_mergekit(MERGEKIT, root)
    return root


def by_hand(operator: str, base: Tensor, sources: dict[str, Tensor]) -> Tensor:
    merged = sum(WEIGHTS[name] * tensor for name, tensor in sources.items())
    total = sum(WEIGHTS.values())
    merged = merged / total if operator == "linear" else base + merged - total * base
    return torch.as_tensor(merged)


@pytest.mark.parametrize("name", CASES)
def test_mergekit_and_we_give_every_token_the_same_rows(name, models):
    operator, settings = CASES[name]
    recipe = MergeRecipe(
        base="base", sources=("one", "two"), operator=operator, tokenizer=settings
    )
    ours = align(recipe, lambda reference: open_checkpoint(reference, root=models))
    out = models / f"theirs {name}"
    theirs, saved = load_file(out / "model.safetensors"), out / "tokenizer.json"
    their_ids = tokens_of(json.loads(saved.read_text()))
    our_ids = ours.plan.vocabulary()
    assert our_ids.keys() == their_ids.keys()
    assert len(ours.plan.tokens) == json.loads((out / "config.json").read_text())["vocab_size"]
    for tensor in ("model.embed_tokens.weight", "lm_head.weight"):
        sources = {source: ours.models[source].read(tensor) for source in WEIGHTS}
        merged = by_hand(operator, ours.models["base"].read(tensor), sources)
        assert merged.shape == theirs[tensor].shape
        order = sorted(our_ids)
        one = merged[[our_ids[token] for token in order]]
        other = theirs[tensor][[their_ids[token] for token in order]]
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
        padding = slice(len(our_ids), None)
        torch.testing.assert_close(merged[padding], theirs[tensor][padding], rtol=0, atol=1e-6)
