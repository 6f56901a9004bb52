"""The refine block of a search recipe: presets, checks and messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import RecipeError
from evomerge.recipe import yaml
from evomerge.recipe.distillation import ALIGNED_BY
from evomerge.recipe.load import validate
from evomerge.recipe.presets import PRESETS
from evomerge.recipe.refine import Refinement

if TYPE_CHECKING:
    from pathlib import Path

DATA = {"path": "texts.jsonl"}


def read(text: str) -> Refinement:
    return validate(Refinement, yaml.parse(f"data: {{path: t.jsonl}}\n{text}", "r.yaml"))


def test_the_default_is_nine_parts_teacher_in_64_tokens_and_a_bucket_for_the_others() -> None:
    found = Refinement.model_validate({"data": DATA})
    assert (found.loss.kind, found.loss.tail_of(aligned=False)) == ("top_k_kl", "ghost")
    assert (found.loss.distillation, found.loss.cross_entropy) == (0.9, 0.1)
    assert found.cache is not None
    assert found.cache.k == 64
    assert found.control


def test_another_tokenizer_is_split_by_prefixes_and_its_tail_is_left_to_the_texts() -> None:
    found = Refinement.model_validate({"data": DATA})
    assert (found.alignment_kind, found.loss.tail_of(aligned=True)) == ("prefixes", "text")


@pytest.mark.parametrize("kind", sorted(ALIGNED_BY))
def test_losses_of_any_vocabularies_are_aligned_by_spans_where_nothing_else_is_asked(
    kind: str,
) -> None:
    assert read(f"loss: {{kind: {kind}}}").alignment_kind == "spans"


def test_fusellm_is_one_part_teacher_in_ten_tokens_that_sum_to_one() -> None:
    found = read("preset: fusellm")
    assert (found.loss.distillation, found.loss.cross_entropy) == (0.1, 0.9)
    assert (found.loss.tail, found.fuse) == ("renormalised", "min_ce")
    assert found.cache is not None
    assert found.cache.k == 10


def test_fusechat_merges_a_student_of_each_teacher() -> None:
    found = read("preset: fusechat")
    assert (found.mode, found.operator) == ("pairwise", "sce")


def test_what_a_recipe_says_comes_before_its_preset() -> None:
    found = read("preset: fusellm\nloss: {cross_entropy: 0.5}")
    assert (found.loss.cross_entropy, found.loss.distillation) == (0.5, 0.1)


@pytest.mark.parametrize("preset", ["fusellm", "fusechat", "infifusion"])
@pytest.mark.parametrize("kind", ["alm", "uld", "top_k_kl"])
def test_another_loss_than_the_preset_s_is_without_what_belongs_to_that(
    preset: str, kind: str
) -> None:
    found = read(f"preset: {preset}\nloss: {{kind: {kind}}}")
    is_own = found.loss.kind == PRESETS[preset]["loss"]["kind"]
    assert (found.loss.tail is not None) == (is_own and preset != "infifusion")
    assert found.loss.distillation == PRESETS[preset]["loss"]["distillation"]


@pytest.mark.parametrize("preset", sorted(PRESETS))
@given(seed=st.integers(0, 100))
def test_settings_are_the_same_after_a_round_trip_with_or_without_defaults(
    preset: str, seed: int
) -> None:
    given_: dict[str, Any] = {"preset": preset, "data": DATA, "train": {"seed": seed}}
    found = Refinement.model_validate(given_)
    for dump in (found.model_dump(mode="json"), found.model_dump(exclude_defaults=True)):
        assert Refinement.model_validate(dump) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loss: {kind: jsd}", "needs all that a teacher predicts; write cache: null"),
        ("loss: {kind: standardised_kl}", "needs all that a teacher predicts; write cache: null"),
        (
            "loss: {kind: standardised_kl, standardise: kept}\ncache: null",
            "standardise: kept with standardised_kl, which compares the whole vocabulary; leave",
        ),
        (
            "loss: {kind: standardised_kl, cross_entropy: 0}\ncache: null",
            "cross_entropy: 0 with standardised_kl, which does not teach how sure to be; give it",
        ),
        (
            "loss: {kind: standardised_kl, tail: ghost}\ncache: null",
            "tail: ghost changes nothing with kind: standardised_kl",
        ),
        ("cache: null", "loss.kind: top_k_kl needs a cache; take kl without one"),
        ("cache: {kind: sampled}", "sampled goes with loss.kind sampled_kl, and only with it"),
        (
            "fuse: avg_logits\nloss: {kind: sampled_kl}\ncache: {kind: sampled}",
            "fuse: avg_logits needs tokens that all teachers have; take avg_probs",
        ),
        ("teachers: []", "names no teacher; leave it out for the sources of the search"),
        ("teachers: [a/x, b/x]", "two teachers are called 'x'; give each a 'name'"),
        ("loss: {distillation: 0, cross_entropy: 0}", "both weights are 0"),
        ("preset: fusellm2", "did you mean 'fusellm'?"),
        ("cache: {k: 65536}", "cache.k: input should be less than or equal to 65535, found 65536"),
        ("preset: [fusellm]", "preset: expected 'default', "),
        ("train: {what: lora2}", "did you mean 'lora'?"),
        (
            "loss: {kind: standardised_uld, standardise: kept, top: 2}",
            "two standardised numbers are always alike; give 3 or more",
        ),
        ("loss: {kind: alm}\ncache: null", "loss.kind: alm needs a cache; take kl without one"),
        ("loss: {temperature: 2}", "temperature: 2 with top_k_kl: what a cache has left out"),
        ("loss: {kind: span_hybrid, beta: 1}", "beta: 1 with span_hybrid; allowed: between 0 and"),
        ("preset: infifusion\ncache: {k: 5}", "cache.k: 5, less than loss.top: 10; keep as many"),
        ("preset: fusellm\nfuse: avg_ce", "with_student: goes with fuse: min_ce and a cache"),
        ("loss: {kind: uld}\nfuse: avg_probs", "allowed: by_domain, min_ce, sum, or "),
        (
            "loss: {kind: alm}\nalignment: {kind: exact}",
            "exact with loss.kind alm; allowed: ",
        ),
        (
            "train: {what: full, layers: [0, 2]}",
            "train: layers: [0, 2] changes nothing with what: full; leave it out, or take lora",
        ),
        (
            "train: {what: coefficients, warmup: 0.5}",
            "warmup: 0.5 changes nothing with what: coefficients; leave it out, or take lora or ",
        ),
        (
            "train: {what: coefficients, gradient_checkpointing: true}",
            "gradient_checkpointing: true changes nothing with what: coefficients; leave it out",
        ),
        (
            "train: {what: layerwise, tokens: 5}",
            "tokens: 5 changes nothing with what: layerwise; leave it out, or take lora or full",
        ),
        (
            "loss: {kind: uld, tail: renormalised}",
            "loss: tail: renormalised changes nothing with kind: uld; write tail: null, or take",
        ),
        (
            "alignment: {kind: position}",
            "compares tokens by what they are; allowed: prefixes, spans, exact",
        ),
    ],
)
def test_what_cannot_be_is_one_line(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_paths_start_from_the_folder_of_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    found = read("teachers: [model]\ncache: {folder: kept}").under(tmp_path)
    assert found.data.path == str(tmp_path / "t.jsonl")
    assert found.teachers is not None
    assert found.teachers[0].model == str(tmp_path / "model")
    assert found.teachers[0].label == "model"
    assert found.cache is not None
    assert found.cache.folder == str(tmp_path / "kept")


@pytest.mark.parametrize(
    "setting", ["seed: 4294967296", "rank: 65536", "alpha: 65536", "epochs: 10001"]
)
def test_numbers_that_no_training_could_take_are_refused_before_it(setting: str) -> None:
    name = setting.split(":", maxsplit=1)[0]
    with pytest.raises(RecipeError, match=rf"train\.{name}: .*less than"):
        read(f"train: {{{setting}}}")
