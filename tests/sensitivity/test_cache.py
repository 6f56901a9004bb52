"""Promise: what was measured is measured once; what was damaged is measured again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import torch

from evomerge.errors import ModelError
from evomerge.sensitivity.cache import WEIGHTS, StatisticsCache

if TYPE_CHECKING:
    from pathlib import Path

    from evomerge.sensitivity.cache import Measured

VALUES = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0)}


class Meter:
    """Measures fixed values and counts how often."""

    def __init__(self, values: dict[str, torch.Tensor] = VALUES) -> None:
        self.values = values
        self.count = 0

    def __call__(self) -> Measured:
        self.count += 1
        return {name: tuple(v.shape) for name, v in self.values.items()}, self.values.items()


def test_a_second_look_measures_nothing(cache: StatisticsCache) -> None:
    meter = Meter()
    for _ in range(2):
        found = cache.fetch("key", meter)
        assert list(found) == ["a", "b"]
        assert len(found) == 2
        assert all(torch.equal(found[name], VALUES[name]) for name in VALUES)
    assert meter.count == 1


def test_another_key_is_measured(cache: StatisticsCache) -> None:
    meter = Meter()
    cache.fetch("key", meter)
    cache.fetch("other", meter)
    assert meter.count == 2


def test_what_is_not_there_is_a_key_error(cache: StatisticsCache) -> None:
    with pytest.raises(KeyError, match="nothing"):
        cache.fetch("key", Meter())["nothing"]


def test_whatever_byte_changed_what_is_read_is_what_was_measured(cache: StatisticsCache) -> None:
    cache.fetch("key", Meter())
    file = cache.folder / "key" / WEIGHTS
    sound = file.read_bytes()
    measured = 0
    places = range(0, len(sound), 3)
    for place in places:
        content = bytearray(sound)
        content[place] ^= 1
        file.unlink()  # mapped files are not written in place
        file.write_bytes(content)
        again = Meter()
        found = cache.fetch("key", again)
        measured += again.count
        assert {name: tensor.tolist() for name, tensor in found.items()} == {
            name: tensor.tolist() for name, tensor in VALUES.items()
        }
    # A changed space of the header's padding changes nothing.
    assert measured >= len(places) - 3


@pytest.mark.parametrize("name", [WEIGHTS, "statistic.json"])
def test_a_missing_or_cut_file_is_measured_again(cache: StatisticsCache, name: str) -> None:
    for damage in (lambda file: file.unlink(), lambda file: os.truncate(file, 5)):
        cache.fetch("key", Meter())
        damage(cache.folder / "key" / name)
        again = Meter()
        cache.fetch("key", again)
        assert again.count == 1


def test_a_measurement_that_fails_leaves_nothing(cache: StatisticsCache) -> None:
    def fail() -> Measured:
        def tensors():
            yield "a", VALUES["a"]
            raise RuntimeError("out of memory")

        return {"a": (2,), "b": ()}, tensors()

    with pytest.raises(RuntimeError, match="out of memory"):
        cache.fetch("key", fail)
    assert not (cache.folder / "key").exists()
    meter = Meter()
    cache.fetch("key", meter)
    assert meter.count == 1


def test_the_least_recently_used_entry_makes_room(tmp_path: Path) -> None:
    large = {"a": torch.zeros(1000)}  # 4 kB, so that two entries fit and three do not
    cache = StatisticsCache(tmp_path, max_bytes=10_000)
    meters = {key: Meter(large) for key in ("first", "second", "third")}
    for age, key in ((200, "first"), (100, "second")):
        cache.fetch(key, meters[key])
        file = cache.folder / key / "statistic.json"
        os.utime(file, (file.stat().st_atime, file.stat().st_mtime - age))
    cache.fetch("first", meters["first"])
    cache.fetch("third", meters["third"])
    assert not (cache.folder / "second").exists()
    cache.fetch("first", meters["first"])
    cache.fetch("third", meters["third"])
    assert [meter.count for meter in meters.values()] == [1, 1, 1]


def test_one_entry_above_the_limit_stays(tmp_path: Path) -> None:
    cache = StatisticsCache(tmp_path, max_bytes=10)
    meter = Meter()
    cache.fetch("key", meter)
    cache.fetch("key", meter)
    assert meter.count == 1


def test_the_folder_is_told_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "mine"))
    assert StatisticsCache().folder == tmp_path / "mine" / "statistics"
    monkeypatch.setenv("EVOMERGE_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert StatisticsCache().folder == tmp_path / ".cache" / "evomerge" / "statistics"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = StatisticsCache(tmp_path / "file")
    with pytest.raises(ModelError, match="cannot be used: Not a directory; name another"):
        cache.fetch("key", Meter())
