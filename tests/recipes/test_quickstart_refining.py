"""What a merge is refined with was neither trained on nor examined, and changes nothing else."""

from __future__ import annotations

import json
from collections import Counter
from hashlib import sha256
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from family import TRAIN_COUNTS, Settings, write_data
from items import Item, split, write_items
from refining import write_refine_items
from skills import SKILLS, Skill
from training import TrainingPlan, encode

if TYPE_CHECKING:
    from pathlib import Path

AS_RELEASED = {
    "french-train": "fd8b7ed5a8c087f52d3a45c54182a4687a248132c86320093d01696b603c25e2",
    "french-eval": "014c0afda7ca3e24723c94615d6de1f1e109a48c5a5252ffcd6187d4ed2e3d98",
    "words-train": "9c43a414176bcc772bc81dee5e2a295d9f4cdb83a1c61a88bad153f0d070ca51",
    "words-eval": "429800b75616c6524e4912a2d2e2f38e396a77af1bcc5a84220747cf993e293b",
}


def documents() -> list[tuple[Item, ...]]:
    """Documents whose first item repeats from one to the next, with two choices in turn."""
    return [
        tuple(
            Item(
                id=f"document {document}",
                question="asked everywhere" if number == 0 else f"{document}.{number}",
                answer="ab"[(document + number) % 2],
                choices=("a", "b"),
            )
            for number in range(3)
        )
        for document in range(60)
    ]


def verbs() -> list[tuple[Item, ...]]:
    return [(Item(id=f"verb {n}", question=f"conjugate {n}", answer=f"é{n}"),) for n in range(60)]


FEW = (
    Skill(name="documents", package="", groups=documents),
    Skill(name="verbs", package="", groups=verbs),
)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the training and evaluation items of two skills."""
    monkeypatch.setattr("family.SKILLS", FEW)
    counts = {"documents": 20, "verbs": 20}
    write_data(tmp_path, Settings(plan=TrainingPlan(), train_counts=counts, eval_count=10))
    return tmp_path


def read(folder: Path, name: str) -> list[dict[str, str]]:
    text = (folder / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_no_question_was_asked_and_no_word_or_document_examined(data: Path):
    write_refine_items(data, FEW, count=16, seed=0)
    prompts = {record["prompt"] for record in read(data, "refine")}
    assert len(prompts) == 32
    about = {item.question: item.id for group in (*documents(), *verbs()) for item in group}
    for skill in FEW:
        asked, examined = read(data, f"{skill.name}-train"), read(data, f"{skill.name}-eval")
        assert prompts.isdisjoint(record["question"] for record in (*asked, *examined))
        assert {about[p] for p in prompts}.isdisjoint(record["id"] for record in examined)


def test_skills_take_turns_and_every_choice_is_right_equally_often(data: Path):
    write_refine_items(data, FEW, count=16, seed=0)
    records = read(data, "refine")
    assert [record["domain"] for record in records] == ["documents", "verbs"] * 16
    answers = Counter(r["completion"] for r in records if r["domain"] == "documents")
    assert answers == {" a\n": 8, " b\n": 8}


def test_prompt_and_completion_are_what_experts_are_trained_on(data: Path):
    write_refine_items(data, FEW, count=16, seed=0)
    texts: list[str] = []

    def tokenizer(text: str) -> SimpleNamespace:
        texts.append(text)
        return SimpleNamespace(input_ids=[0])

    items = {item.question: item for group in (*documents(), *verbs()) for item in group}
    records = read(data, "refine")
    encode([items[record["prompt"]] for record in records], tokenizer)  # type: ignore[arg-type]
    assert texts == [
        text for record in records for text in (record["prompt"], record["completion"])
    ]


def test_the_same_seed_gives_the_same_bytes(data: Path):
    contents = []
    for seed in (0, 0, 1):
        write_refine_items(data, FEW, count=16, seed=seed)
        contents.append((data / "refine.jsonl").read_bytes())
        (data / "refine.jsonl").unlink()
    assert contents[0] == contents[1] != contents[2]


def test_files_that_are_there_are_left_as_they_are(data: Path):
    before = {path.name: path.read_bytes() for path in data.iterdir()}
    write_refine_items(data, FEW, count=16, seed=0)
    refine = (data / "refine.jsonl").read_bytes()
    write_refine_items(data, FEW, count=8, seed=1)
    assert {p.name: p.read_bytes() for p in data.iterdir()} == before | {"refine.jsonl": refine}


@pytest.mark.parametrize("skill", SKILLS[:2], ids=lambda skill: skill.name)
def test_training_and_evaluation_items_are_those_of_the_first_families(
    skill: Skill, tmp_path: Path
):
    try:
        groups = list(skill.groups())
    except SystemExit as missing:
        pytest.skip(str(missing))
    count = TRAIN_COUNTS[skill.name]
    parts = split(groups, train_count=count, eval_count=320, seed=f"0:{skill.name}")
    for part, items in zip(("train", "eval"), parts, strict=True):
        write_items(items, tmp_path / "items.jsonl")
        found = sha256((tmp_path / "items.jsonl").read_bytes()).hexdigest()
        assert found == AS_RELEASED[f"{skill.name}-{part}"]
