"""Fixtures that several rooms share: a tiny model family with tasks, built once a session."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from tiny_family import build_family, build_tasks

if TYPE_CHECKING:
    from pathlib import Path

# The first torch call takes seconds, and a failure must repeat.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# A suite in the background of a shell ignores it, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what datasets and evomerge prepare out of the user's caches."""
    os.environ["HF_DATASETS_CACHE"] = str(tmp_path_factory.mktemp("datasets"))
    os.environ["EVOMERGE_CACHE"] = str(tmp_path_factory.mktemp("evomerge"))


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base`, `one`, `two`, `three`, `lora` and `tasks`; never write to it."""
    folder = tmp_path_factory.mktemp("family")
    build_family(folder)
    build_tasks(folder / "tasks")
    return folder
