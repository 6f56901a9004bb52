"""Promise: what was written is there, exactly, after any crash; what is broken is said."""

from __future__ import annotations

import sqlite3
import struct
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import DiskFullError, RunError, VersionError
from evomerge.evaluation.scores.outcome import Evaluated, Failed, TaskScore, Timing
from evomerge.evaluation.tasks.items import TaskItems
from evomerge.store.database import RunStore
from evomerge.store.records import Candidate
from evomerge.store.schema import APPLICATION_ID, STEPS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def candidate(number: int, **changes: object) -> Candidate:
    values: dict[str, object] = {
        "number": number,
        "digest": f"{number:064x}",
        "kind": "offspring",
        "name": None,
        "generation": 1,
        "genotype": (0.1, 1 / 3),
        "recipe": "{}",
        "parents": ("p",),
    }
    return Candidate(**(values | changes))  # type: ignore[arg-type]


def scored(*items: float) -> Evaluated:
    score = TaskScore(task="t", score=sum(items) / len(items), items=items)
    return Evaluated(scores=(score,), timing=Timing(merge_s=0.1, forward_s=0.2, total_s=0.3))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.sqlite"


@pytest.fixture
def store(file: Path) -> Iterator[RunStore]:
    with closing(RunStore.create(file)) as created:
        yield created


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(finite, min_size=1, max_size=5), finite)
def test_numbers_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, items: list[float], fitness: float
) -> None:
    file = tmp_path_factory.mktemp("store") / "run.sqlite"
    outcome = Evaluated(
        scores=(TaskScore(task="t", score=fitness, items=tuple(items)),),
        timing=Timing(merge_s=0.1, forward_s=0.2, total_s=0.3),
    )
    with closing(RunStore.create(file)) as store:
        store.add_candidates([candidate(0, genotype=tuple(items))])
        store.add_outcome(0, outcome, fitness)
    with closing(RunStore.open_for_reading(file)) as store:
        (entry,) = store.entries()
    assert entry.outcome == outcome
    assert entry.fitness == fitness
    assert entry.candidate.genotype == tuple(items)


def test_a_failure_comes_back_with_its_reason(store: RunStore) -> None:
    store.add_candidates([candidate(0)])
    store.add_outcome(0, Failed(stage="merge", reason="tensor x: NaN\n'quoted'"), None)
    (entry,) = store.entries()
    assert entry.outcome == Failed(stage="merge", reason="tensor x: NaN\n'quoted'")
    assert entry.fitness is None


def test_an_evaluated_candidate_without_a_fitness_is_refused(store: RunStore) -> None:
    store.add_candidates([candidate(0)])
    for nothing in (None, float("nan")):
        with pytest.raises(RunError, match="CHECK constraint failed"):
            store.add_outcome(0, scored(1.0), nothing)
    (entry,) = store.entries()
    assert entry.outcome is None


def test_a_second_outcome_of_a_candidate_is_refused(store: RunStore) -> None:
    store.add_candidates([candidate(0)])
    store.add_outcome(0, scored(1.0), 1.0)
    with pytest.raises(RunError, match="UNIQUE constraint failed"):
        store.add_outcome(0, scored(0.0), 0.0)
    assert store.entries()[0].fitness == 1.0


def test_an_outcome_of_an_unknown_candidate_is_refused(store: RunStore) -> None:
    with pytest.raises(RunError, match="FOREIGN KEY constraint failed"):
        store.add_outcome(7, scored(1.0), 1.0)


def test_a_generation_is_stored_whole_or_not_at_all(store: RunStore) -> None:
    with pytest.raises(RunError, match="UNIQUE constraint failed"):
        store.add_candidates([candidate(0), candidate(1), candidate(0)])
    assert store.entries() == []


def test_held_out_scores_stay_apart_from_search_scores(store: RunStore) -> None:
    store.add_candidates([candidate(0)])
    store.add_outcome(0, scored(1.0, 0.0), 0.5)
    held_out = (TaskScore(task="t", score=0.25, items=(0.5, 0.0)),)
    store.add_scores(0, "held_out", held_out)
    (entry,) = store.entries()
    assert entry.outcome == scored(1.0, 0.0)
    assert entry.held_out == held_out


def test_facts_and_items_come_back_in_order(store: RunStore) -> None:
    items = [
        TaskItems(task="z", search=(5, 1, 9), held_out=(2,)),
        TaskItems(task="a", search=(0,), held_out=(3, 4)),
    ]
    store.write_facts({"recipe": {"seed": 1}, "state": "running"}, items)
    store.write_facts({"state": "finished"})
    assert store.items() == items
    assert (store.fact("recipe"), store.fact("state")) == ({"seed": 1}, "finished")
    assert store.fact("never written") is None


def test_a_reader_sees_what_a_writer_has_written_and_can_write_nothing(
    file: Path, store: RunStore
) -> None:
    with closing(RunStore.open_for_reading(file)) as reader:
        store.add_candidates([candidate(0)])
        assert len(reader.entries()) == 1
        with pytest.raises(RunError, match="readonly database"):
            reader.add_candidates([candidate(1)])


CHILD = """
import sys
from pathlib import Path
from evomerge.store.database import RunStore
sys.path.insert(0, sys.argv[2])
from test_database import candidate, scored
store = RunStore.open_for_writing(Path(sys.argv[1]))
known = store.entries()
for number in range(sum(entry.outcome is not None for entry in known), 100_000):
    if number >= len(known):
        store.add_candidates([candidate(number)])
    store.add_outcome(number, scored(number), float(number))
    print(number, flush=True)
"""


@pytest.mark.slow
def test_every_score_that_was_shown_survives_a_kill(file: Path) -> None:
    RunStore.create(file).close()
    here = __file__.rpartition("/")[0]
    shown = -1
    for lines in (1, 7, 30, 61):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(file), here], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        for _ in range(lines):
            shown = int(child.stdout.readline())
        child.kill()
        shown = max([shown, *(int(line) for line in child.stdout.read().split("\n")[:-1] if line)])
        child.wait()
        with closing(RunStore.open_for_writing(file)) as store:
            told = [e.fitness for e in store.entries() if e.outcome is not None]
        assert told[: shown + 1] == [float(n) for n in range(shown + 1)]


def test_a_store_is_never_created_over_another_file(file: Path) -> None:
    file.write_text("precious")
    with pytest.raises(RunError, match="already exists"):
        RunStore.create(file)
    assert file.read_text() == "precious"


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no run \(no run.sqlite\)"):
        RunStore.open_for_reading(tmp_path / "run.sqlite")


def test_a_file_that_is_no_database_is_refused(file: Path) -> None:
    file.write_bytes(b"not a database" * 100)
    with pytest.raises(RunError, match="file is not a database"):
        RunStore.open_for_reading(file)


def test_somebody_elses_database_is_refused(file: Path) -> None:
    with closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE t (x)")
    with pytest.raises(RunError, match="not one of evomerge's runs"):
        RunStore.open_for_reading(file)


def test_a_damaged_store_is_not_written_to(file: Path) -> None:
    with closing(RunStore.create(file)) as store:
        store.add_candidates([candidate(n, recipe="x" * 3000) for n in range(40)])
    content = bytearray(file.read_bytes())
    for place in range(8192, len(content), 4096):
        content[place : place + 300] = b"\xff" * 300
    file.write_bytes(content)
    with pytest.raises(RunError, match=r"run\.sqlite: "):
        RunStore.open_for_writing(file)


def test_a_full_disk_keeps_what_was_written_and_can_be_gone_on_from(store: RunStore) -> None:
    store.add_candidates([candidate(0)])
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(DiskFullError, match="no space is left on the disk; make room, then res"):
        store.add_candidates(candidate(number, recipe="x" * 1000) for number in range(1, 100))
    assert len(store.entries()) == 1
    store._connection.execute("PRAGMA max_page_count = 1000000")
    store.add_candidates([candidate(1)])
    assert len(store.entries()) == 2


def test_a_newer_store_asks_for_a_newer_program(file: Path) -> None:
    with closing(RunStore.create(file)):
        pass
    with closing(sqlite3.connect(file)) as newer:
        newer.execute("PRAGMA user_version = 99")
    with pytest.raises(
        VersionError, match=rf"newer evomerge \(format 99, known up to {len(STEPS)}\)"
    ):
        RunStore.open_for_writing(file)


def test_a_store_of_the_first_version_is_read_as_it_is_and_upgraded_when_it_is_written(
    file: Path,
) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as old:
        old.executescript(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1;")
        old.executescript(STEPS[0])
        RunStore(old).add_candidates([candidate(0)])
        old.execute("INSERT INTO outcomes VALUES (0, 0.375, NULL, NULL, 0.1, 0.2, 0.3, '')")
        items = struct.pack("<dd", 0.5, 0.25)
        old.execute("INSERT INTO scores VALUES (0, 'search', 't', 0.375, ?)", (items,))
    with closing(RunStore.open_for_reading(file)) as store:
        before = store.entries()
    with closing(RunStore.open_for_writing(file)) as store:
        assert store.entries() == before
        assert before[0].outcome == scored(0.5, 0.25)
        confirmed = tuple(replace(score, truncated=0.5) for score in scored(0.4).scores)
        store.add_scores(0, "confirm", confirmed)
        assert store.entries()[0].confirmed == confirmed
