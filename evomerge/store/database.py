"""The SQLite file of a run: one writer, any number of read-only readers.

What a method has written is on the disk when it returns: every write is one transaction, and the
database syncs on commit.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from evomerge.errors import DiskFullError, RunError, VersionError
from evomerge.evaluation.scores.outcome import Evaluated, Failed, Outcome, TaskScore, Timing
from evomerge.evaluation.tasks.items import TaskItems
from evomerge.store.records import Candidate, Entry
from evomerge.store.schema import APPLICATION_ID, STEPS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence


class RunStore:
    """Reads and writes a run's database.

    Use `create`, `open_for_writing` or `open_for_reading`.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @staticmethod
    def create(file: Path) -> RunStore:
        """Create an empty store.

        Raises:
            RunError: The file exists or cannot be written.
        """
        if file.exists():
            raise RunError(f"{file}: already exists")
        with _explained(file):
            connection = _connect(f"{file.resolve().as_uri()}?mode=rwc")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            _upgrade(connection, 0)
        return RunStore(connection)

    @staticmethod
    def open_for_writing(file: Path) -> RunStore:
        """Open a store as its only writer, after checking that it is whole.

        Raises:
            RunError: It is missing, damaged or not a run store.
            VersionError: A newer evomerge wrote it.
        """
        store = _open(file, mode="rw")
        with _explained(file):
            (answer,) = store.quick_check()
        if answer != "ok":
            raise RunError(f"{file}: is damaged ({answer}); restore it from a copy")
        return store

    @staticmethod
    def open_for_reading(file: Path) -> RunStore:
        """Open a store that another process may be writing; see `open_for_writing`."""
        return _open(file, mode="ro")

    def quick_check(self) -> tuple[str]:
        """SQLite's own answer to whether the file is whole: `ok`, or what is wrong."""
        row: tuple[str] = self._connection.execute("PRAGMA quick_check").fetchone()
        return row

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    # What a run is

    def write_facts(self, facts: Mapping[str, Any], items: Sequence[TaskItems] = ()) -> None:
        """Store facts about the run, each a JSON document, and its frozen items, all or none."""
        rows = [
            (entry.task, split, place, position)
            for entry in items
            for split in ("search", "confirm", "held_out")
            for place, position in enumerate(getattr(entry, split))
        ]
        with self._transaction():
            self._connection.executemany(
                "INSERT OR REPLACE INTO run VALUES (?, ?)",
                [(key, json.dumps(value, allow_nan=False)) for key, value in facts.items()],
            )
            self._connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?)", rows)

    def fact(self, key: str) -> Any:
        """A fact about the run, or None."""
        with _explained(Path("run store")):
            row = self._connection.execute(
                "SELECT value FROM run WHERE key = ?", (key,)
            ).fetchone()
        return json.loads(row[0]) if row else None

    def items(self) -> list[TaskItems]:
        """The frozen items, in the order of the tasks."""
        drawn: dict[str, dict[str, list[int]]] = {}
        query = "SELECT task, split, position FROM items ORDER BY rowid"
        for task, split, position in self._connection.execute(query):
            drawn.setdefault(task, {}).setdefault(split, []).append(position)
        return [
            TaskItems(
                task=task,
                search=tuple(of["search"]),
                confirm=tuple(of.get("confirm", ())),
                held_out=tuple(of["held_out"]),
            )
            for task, of in drawn.items()
        ]

    # What was asked and what came back

    def add_candidates(self, candidates: Iterable[Candidate]) -> None:
        """Store a generation of candidates, all or none."""
        now = _now()
        rows = [
            (
                each.number,
                each.digest,
                each.kind,
                each.name,
                each.generation,
                json.dumps(each.genotype) if each.genotype is not None else None,
                each.recipe,
                json.dumps(each.parents),
                now,
            )
            for each in candidates
        ]
        with self._transaction():
            self._connection.executemany(
                "INSERT INTO candidates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
            )

    def add_outcome(self, number: int, outcome: Outcome, fitness: float | None) -> None:
        """Store what became of a candidate on the search items."""
        timing: tuple[float | None, ...] = (None, None, None)
        stage = reason = None
        if isinstance(outcome, Failed):
            stage, reason = outcome.stage, outcome.reason
        else:
            timing = (outcome.timing.merge_s, outcome.timing.forward_s, outcome.timing.total_s)
        with self._transaction():
            self._connection.execute(
                "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (number, fitness, stage, reason, *timing, _now()),
            )
            if isinstance(outcome, Evaluated):
                self._add_scores(number, "search", outcome.scores)

    def revise_fitness(self, number: int, fitness: float | None) -> None:
        """Store the fitness of a candidate that was scored before fitness could be measured."""
        with self._transaction():
            self._connection.execute(
                "UPDATE outcomes SET fitness = ? WHERE candidate = ?", (fitness, number)
            )

    def add_scores(
        self, number: int, kind: Literal["confirm", "held_out"], scores: Sequence[TaskScore]
    ) -> None:
        """Store a candidate's scores on all items but the held-out ones, or on those."""
        with self._transaction():
            self._add_scores(number, kind, scores)

    def entries(self) -> list[Entry]:
        """All candidates and their outcomes, in the order of asking."""
        with _explained(Path("run store")):
            return self._entries()

    def _entries(self) -> list[Entry]:
        scores = self._scores()
        query = """
            SELECT number, digest, kind, name, generation, genotype, recipe, parents,
                   outcomes.candidate, fitness, stage, reason, merge_s, forward_s, total_s
            FROM candidates LEFT JOIN outcomes ON outcomes.candidate = number
            ORDER BY number < 0, abs(number)
        """
        (total,) = self._connection.execute(
            "SELECT count(*) FROM items WHERE split = 'search'"
        ).fetchone()
        return [_entry(row, scores, total) for row in self._connection.execute(query)]

    def _scores(self) -> dict[tuple[int, str], list[TaskScore]]:
        found: dict[tuple[int, str], list[TaskScore]] = {}
        for row in self._connection.execute("SELECT * FROM scores ORDER BY rowid"):
            # A store of an earlier version that is only read has fewer columns.
            candidate, split, task, score, items = row[:5]
            truncated, sureness = (*row[5:], None, None)[:2]
            values = tuple(np.frombuffer(items, dtype="<f8").tolist())
            entry = TaskScore(
                task=task, score=score, items=values, truncated=truncated, sureness=sureness
            )
            found.setdefault((candidate, split), []).append(entry)
        return found

    def _add_scores(self, number: int, split: str, scores: Sequence[TaskScore]) -> None:
        rows = [
            (
                number,
                split,
                each.task,
                each.score,
                np.array(each.items, dtype="<f8").tobytes(),
                each.truncated,
                each.sureness,
            )
            for each in scores
        ]
        self._connection.executemany("INSERT INTO scores VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _explained(Path("run store")):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            finally:
                # On some errors, a full disk among them, SQLite has rolled back by itself.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")


def _entry(
    row: Sequence[Any], scores: Mapping[tuple[int, str], list[TaskScore]], items: int
) -> Entry:
    number, digest, kind, name, generation, genotype, recipe, parents, *of_outcome = row
    known, fitness, stage, reason, *timing = of_outcome
    candidate = Candidate(
        number=number,
        digest=digest,
        kind=kind,
        name=name,
        generation=generation,
        genotype=tuple(json.loads(genotype)) if genotype is not None else None,
        recipe=recipe,
        parents=tuple(json.loads(parents)),
    )
    outcome: Outcome | None = None
    if known is not None and stage is not None:
        outcome = Failed(stage=stage, reason=reason)
    elif known is not None:
        merge_s, forward_s, total_s = timing
        found = tuple(scores.get((number, "search"), ()))
        outcome = Evaluated(
            scores=found,
            timing=Timing(merge_s=merge_s, forward_s=forward_s, total_s=total_s),
            share=sum(len(score.items) for score in found) / items if items else 1.0,
        )
    return Entry(
        candidate=candidate,
        outcome=outcome,
        fitness=fitness,
        held_out=tuple(scores.get((number, "held_out"), ())),
        confirmed=tuple(scores.get((number, "confirm"), ())),
    )


def _open(file: Path, mode: str) -> RunStore:
    if not file.is_file():
        raise RunError(f"{file.parent}: holds no run (no {file.name})")
    with _explained(file):
        connection = _connect(f"{file.resolve().as_uri()}?mode={mode}")
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise RunError(f"{file}: is a database, but not one of evomerge's runs")
    if version > len(STEPS):
        raise VersionError(
            f"{file}: written by a newer evomerge (format {version}, known up to {len(STEPS)}); "
            "upgrade evomerge"
        )
    if mode == "rw":
        with _explained(file):
            _upgrade(connection, version)
    return RunStore(connection)


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _upgrade(connection: sqlite3.Connection, version: int) -> None:
    """Bring a store to this version's tables, all or none."""
    # A table that others refer to is replaced by a wider one.
    connection.execute("PRAGMA foreign_keys = OFF")
    for number, step in enumerate(STEPS[version:], start=version + 1):
        connection.executescript(f"BEGIN; {step} PRAGMA user_version = {number}; COMMIT;")
    connection.execute("PRAGMA foreign_keys = ON")


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        if "disk is full" in str(error):
            message = f"{file}: no space is left on the disk; make room, then resume the run"
            raise DiskFullError(message) from error
        raise RunError(f"{file}: {error}") from error


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
