"""Promise: teachers that run beside their student teach what their caches would."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from students import distillation, never, quiet
from tiny_architectures import SIZES, build, save
from vocabulary_family import build_model, byte_level

from evomerge.errors import CompatibilityError, RecipeError
from evomerge.recipe.distillation import Teacher
from evomerge.refinement.distil import distil

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = 257


def losses_of(
    family: Path, folder: Path, names: tuple[str, ...], loss: dict[str, Any], **settings: Any
) -> list[float]:
    both = tuple(Teacher(model=str(family / name), name=name) for name in names)
    loss = {"distillation": 1.0, "cross_entropy": 0.0} | loss
    work = distillation(family, folder, both, loss=loss, **settings)
    found: list[float] = distil(work, quiet, never).course["validation_losses"]
    return found


@pytest.mark.parametrize(
    ("names", "fuse"), [(("one",), None), (("one", "two"), "avg_logits")], ids=["one", "two"]
)
def test_what_runs_beside_teaches_what_a_whole_cache_does(
    family: Path, tmp_path: Path, names: tuple[str, ...], fuse: str | None
) -> None:
    live = losses_of(family, tmp_path / "live", names, {"kind": "kl"}, cache=None, fuse=fuse)
    kept = losses_of(
        family, tmp_path / "kept", names, {"kind": "top_k_kl"}, cache={"k": WHOLE}, fuse=fuse
    )
    assert live == pytest.approx(kept, rel=1e-2)


def test_where_one_teacher_beside_mixes_the_texts_of_a_pack_each_text_is_read_by_itself(
    family: Path, tmp_path: Path
) -> None:
    shutil.copytree(family, tmp_path / "family")
    sizes = SIZES | {"vocab_size": WHOLE, "max_position_embeddings": 128, "initializer_range": 0.5}
    save(build("BloomForCausalLM", "BloomConfig", sizes), tmp_path / "family" / "mixing")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(family / "one" / name, tmp_path / "family" / "mixing" / name)
    # All texts that are set aside fit into one pass, whether they are packed or not.
    settings = {"fuse": "avg_logits", "train": {"pass_tokens": 2048, "batch_tokens": 2048}}
    live, kept = (
        losses_of(tmp_path / "family", tmp_path / kind, ("one", "mixing"), {"kind": kind}, **more)
        for kind, more in (
            ("kl", settings | {"cache": None}),
            ("top_k_kl", settings | {"cache": {"k": WHOLE}}),
        )
    )
    assert live[0] == pytest.approx(kept[0], rel=1e-3)


@pytest.mark.parametrize(
    "loss",
    [
        {"kind": "reverse_kl"},
        {"kind": "jsd", "temperature": 2.0},
        {"kind": "standardised_kl", "cross_entropy": 1e-3},
    ],
    ids=lambda loss: loss["kind"],
)
def test_a_student_comes_nearer_to_a_teacher_beside_it(
    family: Path, tmp_path: Path, loss: dict[str, Any]
) -> None:
    losses = losses_of(family, tmp_path / "student", ("one",), loss, cache=None)
    assert losses[-1] < 0.8 * losses[0]


def test_a_merge_moves_as_far_as_its_experts_moved_from_their_base(
    family: Path, tmp_path: Path
) -> None:
    losses = losses_of(
        family,
        tmp_path / "student",
        ("one", "two"),
        {"kind": "kl"},
        cache=None,
        fuse="dynamic",
    )
    assert losses[-1] < 0.8 * losses[0]


def test_dynamic_fusion_without_what_it_needs_is_refused(family: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fuse: dynamic needs all that teachers predict"):
        losses_of(family, tmp_path / "student", ("one",), {"kind": "top_k_kl"}, fuse="dynamic")


def test_teachers_beside_are_not_chosen_by_domain(family: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"fuse: by_domain of 2 teachers beside the student"):
        losses_of(
            family,
            tmp_path / "student",
            ("one", "two"),
            {"kind": "kl"},
            cache=None,
            fuse="by_domain",
        )


def test_a_teacher_beside_needs_the_student_s_tokenizer(family: Path, tmp_path: Path) -> None:
    build_model(tmp_path / "other", byte_level([("r", "e")], turn=3), seed=4)
    other = Teacher(model=str(tmp_path / "other"), name="other")
    work = distillation(family, tmp_path / "student", (other,), loss={"kind": "kl"}, cache=None)
    with pytest.raises(CompatibilityError, match=r"loss.kind kl needs the student's tokenizer"):
        distil(work, quiet, never)


def test_a_text_that_is_too_long_for_a_teacher_is_refused(family: Path, tmp_path: Path) -> None:
    shutil.copytree(family / "one", tmp_path / "short")
    file = tmp_path / "short" / "config.json"
    config = json.loads(file.read_text()) | {"max_position_embeddings": 8}
    file.write_text(json.dumps(config))
    work = distillation(
        family,
        tmp_path / "student",
        (Teacher(model=str(tmp_path / "short"), name="short"),),
        loss={"kind": "kl"},
        cache=None,
    )
    with pytest.raises(CompatibilityError, match="reads at most 8 tokens at once"):
        distil(work, quiet, never)
