"""Promise: a teacher runs once; what it said is read back exactly, or refused in one line."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from filelock import FileLock
from recordings import SAMPLED, TOP, VOCABULARY, Recording, contents, recording

from evomerge.checkpoints import open_checkpoint
from evomerge.errors import CompatibilityError, DiskFullError, OutputError, RunError
from evomerge.refinement.cache.key import CacheKey, cache_key
from evomerge.refinement.cache.shards import write_shard
from evomerge.refinement.cache.teacher_cache import TeacherCache
from evomerge.refinement.predictions.kept import Kept
from evomerge.refinement.teachers import build as module
from evomerge.refinement.teachers.teacher import Teacher
from evomerge.sensitivity.calibration import Prompted

if TYPE_CHECKING:
    from evomerge.refinement.predictions.top_k import TopK

WORDS = ("red", "green", "blue", "cat", "x", "dog", "bird", "one two three", "sun and moon")


@pytest.fixture(scope="module")
def it(family: Path) -> Recording:
    """All examples but number 4, a single token, have something to predict."""
    return recording(family, [*WORDS, Prompted("the sea is ", "blue")])


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_ROWS", 10)


@pytest.mark.parametrize("kept", [TOP, SAMPLED], ids=lambda kept: kept.kind)
def test_rows_are_those_that_the_teacher_predicts(
    tmp_path: Path,
    it: Recording,
    kept: Kept,
) -> None:
    key = replace(it.key, kept=kept)
    cache = it.build(tmp_path, key=key)
    for sequence in it.sequences:
        (expected,) = Teacher(it.model).predict([sequence], kept)
        rows = cache.rows(sequence.index)
        assert torch.equal(rows.ids, expected.ids)
        assert rows.ids.dtype == torch.int64
        torch.testing.assert_close(rows.log_probs, expected.log_probs, atol=2**-7, rtol=0)
        torch.testing.assert_close(rows.tail, expected.tail, atol=2**-7, rtol=0)
        torch.testing.assert_close(rows.nll, expected.nll)
        assert rows.vocabulary == VOCABULARY
    assert len(cache.rows(4).nll) == 0


def test_examples_at_the_end_that_have_nothing_to_predict_have_no_rows(
    family: Path, tmp_path: Path
) -> None:
    it = recording(family, ["red", "x", "y"])
    cache = it.build(tmp_path)
    assert [len(cache.rows(index).nll) for index in range(3)] == [it.rows, 0, 0]


def test_a_complete_cache_does_not_load_the_teacher(
    tmp_path: Path,
    it: Recording,
) -> None:
    def never() -> Any:
        pytest.fail("the teacher was loaded")

    it.build(tmp_path)
    before = contents(tmp_path)
    it.build(tmp_path, sequences=reversed(it.sequences), load=never)
    assert contents(tmp_path) == before


def test_progress_counts_the_rows_up_to_all(
    tmp_path: Path,
    it: Recording,
) -> None:
    told: list[tuple[int, int]] = []
    it.build(tmp_path, progress=lambda *now: told.append(now))
    assert told == sorted(told)
    assert told[-1] == (it.rows, it.rows)
    assert {total for _, total in told} == {it.rows}


@pytest.mark.parametrize("fails_at", [0, 1, 3])
def test_an_interrupted_build_goes_on_and_ends_in_the_same_bytes(
    tmp_path: Path,
    it: Recording,
    fails_at: int,
) -> None:
    def stop(done: int, _: int) -> None:
        if done > 10 * fails_at:
            raise KeyboardInterrupt

    it.build(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        it.build(tmp_path / "c", progress=stop)
    with pytest.raises(RunError, match=r"not complete, \d of \d parts are there"):
        TeacherCache(tmp_path / "c", it.key)
    it.build(tmp_path / "c")
    assert contents(tmp_path / "c") == contents(tmp_path / "whole")


def test_a_text_that_is_too_long_for_the_teacher_is_refused_before_a_part_is_made(
    tmp_path: Path, it: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = [len(each) for each in it.sequences]
    assert lengths[-1] == max(lengths), "the longest is in the last part"
    monkeypatch.setattr(it.model.config, "max_position_embeddings", max(lengths) - 1)
    with pytest.raises(CompatibilityError, match=f"a text has {max(lengths)}; write data.max_tok"):
        it.build(tmp_path)
    assert not list(tmp_path.glob("0*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": "f" * 64}, r"it has teacher [0-9a-f]{12} instead of ffffffffffff; name an"),
        ({"data": "f" * 64}, "it has data"),
        ({"template": "f" * 64}, "it has template"),
        ({"tokenizer": "f" * 64, "precision": "bfloat16"}, "tokenizer .* and precision float32"),
        ({"kept": Kept(vocabulary=VOCABULARY, k=9)}, "it has k 8 instead of 9"),
    ],
)
def test_a_cache_of_something_else_is_refused_by_the_part_that_differs(
    tmp_path: Path,
    it: Recording,
    change: dict[str, Any],
    message: str,
) -> None:
    it.build(tmp_path)
    other = replace(it.key, **change)
    with pytest.raises(OutputError, match=message):
        it.build(tmp_path, key=other)
    assert other.folder("one") != it.key.folder("one")


def test_the_key_follows_teacher_data_tokenizer_and_template(
    family: Path, it: Recording, tmp_path: Path
) -> None:
    folder = tmp_path / "one"
    shutil.copytree(family / "one", folder)
    one, two = open_checkpoint("one", root=tmp_path), open_checkpoint("two", root=family)

    def key(teacher: Any = one, data: Any = it.sequences) -> CacheKey:
        return cache_key(teacher, data, TOP, precision="float32")

    def parts(other: CacheKey) -> list[str]:
        return [words.split()[0] for words in key().differences(other.parts())]

    assert parts(key()) == []
    assert key(data=reversed(it.sequences)) == key()
    assert parts(key(teacher=two)) == ["teacher"]
    assert parts(key(data=it.sequences[1:])) == ["data"]
    before = key()
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert parts(before) == ["template"]
    before, file = key(), folder / "tokenizer.json"
    file.write_text(file.read_text().replace('"use_regex": true', '"use_regex": false'))
    assert parts(before) == ["tokenizer"]


@pytest.fixture
def built(
    tmp_path: Path,
    it: Recording,
) -> Path:
    it.build(tmp_path / "c")
    return tmp_path / "c"


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "missing"])
@pytest.mark.parametrize("name", ["lengths.npy", "ids.npy", "log_probs.npy", "nll.npy"])
def test_a_damaged_part_is_one_line_and_made_again_once_it_is_deleted(
    built: Path,
    it: Recording,
    harm: str,
    name: str,
) -> None:
    whole = contents(built)
    file = built / "00001" / name
    content = file.read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    if harm == "missing":
        file.unlink()
    else:
        file.write_bytes({"flip": flipped, "cut": content[:-1], "empty": b""}[harm])
    last = it.sequences[-1].index
    cache = TeacherCache(built, it.key)
    assert len(cache.rows(0).nll)
    assert len(cache.rows(last).nll), "the other parts are fine"
    message = rf"00001/{name}: (is damaged|cannot be read).*; delete the folder .*00001 to have"
    damaged = json.loads((built / "manifest.json").read_bytes())["shards"][1]["first"]
    with pytest.raises(RunError, match=message):
        cache.rows(damaged)
    with pytest.raises(RunError, match=message):
        it.build(built)
    shutil.rmtree(built / "00001")
    it.build(built)
    assert contents(built) == whole


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("manifest.json", b"{", "is no manifest of a teacher cache"),
        ("manifest.json", b"[]", "is no manifest of a teacher cache"),
        ("manifest.json", b'{"schema": 2}', "is no manifest of a teacher cache"),
        ("manifest.json", b'{"schema": 1}', "was written by another version"),
        ("manifest.json", b'{"schema": 99}', "was written by another version"),
        ("index.npy", b"", r"index\.npy: is damaged"),
    ],
)
def test_a_cache_without_a_sound_manifest_or_index_is_one_line(
    built: Path, it: Recording, name: str, content: bytes, message: str
) -> None:
    (built / name).write_bytes(content)
    with pytest.raises(RunError, match=message):
        TeacherCache(built, it.key)


@pytest.mark.parametrize("name", ["manifest.json", "index.npy"])
def test_a_file_that_cannot_be_read_is_one_line(built: Path, it: Recording, name: str) -> None:
    (built / name).unlink()
    (built / name).mkdir()
    with pytest.raises(RunError, match=rf"{name}: cannot be read: Is a directory"):
        TeacherCache(built, it.key)


def test_a_cache_of_another_form_is_not_in_the_way(
    it: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = it.key.folder("one")
    monkeypatch.setattr("evomerge.refinement.cache.key.SCHEMA", 99)
    assert it.key.folder("one") != before


def test_what_a_dead_process_left_is_removed(built: Path, it: Recording) -> None:
    whole = contents(built)
    shutil.copytree(built / "00001", built / ".tmp-00001")
    (built / ".tmp-manifest").write_bytes(b"{")
    it.build(built)
    assert contents(built) == whole


def test_a_folder_of_something_else_is_left_alone(
    tmp_path: Path,
    it: Recording,
) -> None:
    (tmp_path / "thesis.txt").write_text("dear to someone")
    with pytest.raises(OutputError, match=r"holds 'thesis\.txt' and is no teacher cache"):
        it.build(tmp_path)
    with pytest.raises(RunError, match="holds no teacher cache; build it first"):
        TeacherCache(tmp_path, it.key)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file: cannot be written: File exists"):
        it.build(tmp_path / "file")


def test_a_full_disk_is_one_line_and_nothing_is_lost(
    tmp_path: Path, it: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, rows: TopK) -> dict[str, str]:
        if folder.name == "00002":
            raise OSError(errno.ENOSPC, "full")
        return write_shard(folder, rows)

    it.build(tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(module, "write_shard", full)
        with pytest.raises(DiskFullError, match="c: no space is left on the disk"):
            it.build(tmp_path / "c")
    assert (tmp_path / "c" / "00001").is_dir()
    it.build(tmp_path / "c")
    assert contents(tmp_path / "c") == contents(tmp_path / "whole")


def test_who_finds_another_process_building_the_same_cache_waits(
    tmp_path: Path, it: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.01)
    lock = FileLock(tmp_path / "c" / "lock")
    (tmp_path / "c").mkdir()
    lock.acquire()
    waited = 0

    def waiting() -> None:
        nonlocal waited
        waited += 1
        assert not (tmp_path / "c" / "00000").exists()
        if waited == 3:
            lock.release()

    it.build(tmp_path / "c", waiting=waiting)
    assert waited == 3
    it.build(tmp_path / "whole")
    assert contents(tmp_path / "c") == contents(tmp_path / "whole")


KILLER = """
import os, signal, sys, time
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from evomerge.refinement.teachers import build
from recordings import recording

torch.set_num_threads(1)  # so that a forked process can calculate
build.SHARD_ROWS = 10
it = recording(Path(sys.argv[2]), [f"{n} birds and {n * n} cats" for n in range(30)])
out = Path(sys.argv[3])
began = time.perf_counter()
it.build(out / "whole")
needed = time.perf_counter() - began
for moment in range(1, 8):
    child = os.fork()
    if not child:
        it.build(out / "killed")
        os._exit(0)
    time.sleep(needed * moment / 28)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print(os.WIFSIGNALED(status), len(list((out / "killed").glob("0*"))))
it.build(out / "killed")
"""


@pytest.mark.slow
def test_a_killed_build_goes_on_and_ends_in_the_same_bytes(family: Path, tmp_path: Path) -> None:
    here = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", KILLER, here, str(family), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "True" in done.stdout, "none was killed"
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
