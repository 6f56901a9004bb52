"""Promise: a place that cannot be written to is refused before the work, in one line."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from evomerge.checkpoints import check_output_file, check_output_folder, write_output_file
from evomerge.checkpoints.output import named_errors
from evomerge.errors import DiskFullError, OutputError

CHECKS = [check_output_file, check_output_folder]


@pytest.mark.parametrize("check", CHECKS)
def test_what_is_absent_may_be_made_and_so_may_its_folders(check, tmp_path):
    check(tmp_path / "out")
    check(tmp_path / "deep" / "er" / "out")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", ["file", "full", "link", "/", "."])
def test_what_is_there_is_refused(check, name, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    monkeypatch.chdir(tmp_path / "full")
    with pytest.raises(OutputError, match="is there already"):
        check(Path(name) if name in "/." else tmp_path / name)


def test_an_empty_folder_may_become_a_model_but_not_a_file(tmp_path):
    check_output_folder(tmp_path)
    with pytest.raises(OutputError, match="is there already"):
        check_output_file(tmp_path)


def test_an_empty_mount_point_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path)
    with pytest.raises(OutputError, match="is a mount point; name a folder inside it"):
        check_output_folder(tmp_path)


@pytest.mark.parametrize("check", CHECKS)
def test_a_file_is_no_place_for_others(check, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"out: cannot be written: .*file is not a folder"):
        check(tmp_path / "file" / "deep" / "out")


@pytest.mark.parametrize("check", CHECKS)
def test_a_folder_that_may_not_be_written_in_is_refused(check, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)
    with pytest.raises(OutputError, match=f"nothing may be written in {tmp_path}"):
        check(tmp_path / "deep" / "out")


@pytest.mark.parametrize("check", CHECKS)
def test_a_name_that_no_disk_takes_is_refused(check, tmp_path):
    with pytest.raises(OutputError, match="cannot be written: File name too long"):
        check(tmp_path / ("x" * 300))


def test_a_new_file_is_written_with_its_folders_and_never_over_another(tmp_path):
    write_output_file(tmp_path / "deep" / "out", b"ours")
    with pytest.raises(OutputError, match="is there already"):
        write_output_file(tmp_path / "deep" / "out", b"theirs")
    assert (tmp_path / "deep" / "out").read_bytes() == b"ours"


def test_a_full_disk_has_an_error_of_its_own(tmp_path):
    with pytest.raises(DiskFullError, match="out: no space is left"), named_errors(Path("out")):
        raise OSError(errno.ENOSPC, "No space left on device")
