"""A reference is a folder, a Hub id, or BASE+ADAPTER; anything else is refused in one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, errors
from safetensors.torch import save_file

from evomerge.checkpoints import AdaptedModel, open_checkpoint, resolve_reference
from evomerge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable


def refuses(reference: str, root: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        open_checkpoint(reference, root=root)
    assert "\n" not in str(caught.value)


def save_adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1, "lora_alpha": 1}')
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    halves = {f"{stem}.lora_A.weight": (1, 32), f"{stem}.lora_B.weight": (32, 1)}
    tensors = {name: torch.ones(shape) for name, shape in halves.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture
def root(llama_folder, tmp_path) -> Path:
    """A folder with a model `llama` and an adapter `lora`."""
    (tmp_path / "llama").symlink_to(llama_folder)
    save_adapter(tmp_path / "lora")
    return tmp_path


class FakeHub:
    """Stands in for `snapshot_download`: gives a folder or raises, and keeps what was asked."""

    def __init__(self, outcome: Path | Exception) -> None:
        self.outcome = outcome
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, repository: str, **options: Any) -> str:
        self.calls.append((repository, options))
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return str(self.outcome)


@pytest.fixture
def hub(monkeypatch) -> Callable[[Path | Exception], FakeHub]:
    def install(outcome: Path | Exception) -> FakeHub:
        fake = FakeHub(outcome)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
        return fake

    return install


def test_a_folder_is_opened_absolute_and_relative(root):
    for reference in ("llama", "./llama", f"{root}/llama", f"../{root.name}/llama"):
        model = open_checkpoint(reference, root=root)
        assert model.reference == reference
        assert model.read("model.norm.weight").shape == (32,)


def test_a_tilde_is_the_home_folder(root, monkeypatch):
    monkeypatch.setenv("HOME", str(root))
    assert open_checkpoint("~/llama", root=Path("/")).folder == root / "llama"
    refuses("~nobody-by-that-name/llama", root, "no such home folder")


def test_a_base_with_an_adapter_is_opened(root):
    model = open_checkpoint("llama+lora", root=root)
    assert isinstance(model, AdaptedModel)
    assert model.reference == "llama+lora"
    assert model.base.reference == "llama"
    assert model.low_rank("model.layers.0.self_attn.q_proj.weight") is not None


def test_names_with_a_plus_or_an_at_are_folders_if_they_exist(root, llama_folder):
    for name in ("c++", "a@b", "x+y"):
        (root / name).symlink_to(llama_folder)
        assert open_checkpoint(name, root=root).folder == root / name
    assert isinstance(open_checkpoint("c+++lora", root=root), AdaptedModel)
    nested = save_adapter(root / "d+e" / "lora")
    assert open_checkpoint(f"x+y+{nested}", root=root).reference == f"x+y+{nested}"


def test_two_ways_to_read_a_plus_are_refused(root, llama_folder):
    for name in ("a", "a+b"):
        (root / name).symlink_to(llama_folder)
    for name in ("b+c", "c"):
        save_adapter(root / name)
    refuses("a+b+c", root, "more than one way to read it as BASE")
    refuses("nothing+at+all", root, "no way to read it as BASE")


def test_folders_resolve_to_absolute_paths_and_hub_ids_stay(root):
    assert resolve_reference("llama", root=root) == f"{root}/llama"
    assert resolve_reference("llama+lora", root=root) == f"{root}/llama+{root}/lora"
    assert resolve_reference("org/name@v1+lora", root=root) == f"org/name@v1+{root}/lora"
    assert resolve_reference("org/name", root=root) == "org/name"
    resolved = resolve_reference("llama+lora", root=root)
    assert resolve_reference(resolved, root=Path("/")) == resolved


@pytest.mark.parametrize(
    ("reference", "match"),
    [
        ("", "names no model"),
        ("  ", "names no model"),
        ("a\0b", "control characters"),
        ("a\nb", "control characters"),
        ("http://169.254.169.254/x", "is a URL"),
        ("file:///etc", "is a URL"),
        ("HTTPS://huggingface.co/org/name", "is a URL"),
        ("absent", "no folder /.*/absent, and 'absent' is no Hub id like org/name"),
        ("./org/name", "no folder /.*/org/name"),
        ("/absent/model", "no folder /absent/model"),
        ("org/name/more", "is no Hub id"),
        ("org/name@", "is no Hub id"),
        ("org/name@../x", "is no Hub id"),
        ("org/name@a@b", "more than one '@'"),
        ("org/name@a b", "is no Hub id"),
        ("llama+", "a model is missing beside"),
        ("+lora", "a model is missing beside"),
        ("llama+absent", "no folder /.*/absent"),
        ("llama/config.json", "is a file; name the folder that it is in"),
        ("x" * 5000, "no folder"),
    ],
)
def test_a_reference_that_names_nothing_is_refused(root, reference, match):
    refuses(reference, root, match)
    with pytest.raises(ModelError, match=match):
        resolve_reference(reference, root=root)


def test_a_folder_without_permission_is_named(root, monkeypatch):
    def fail(self: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", fail)
    refuses("llama", root, "llama: cannot be read: Permission denied")


def test_a_hub_id_is_fetched_without_pickles_and_subfolders(root, llama_folder, hub):
    fake = hub(llama_folder)
    model = open_checkpoint("org/name@v1.0", root=root)
    assert model.reference == "org/name@v1.0"
    assert model.folder == llama_folder
    ((repository, options),) = fake.calls
    assert (repository, options["revision"]) == ("org/name", "v1.0")
    assert options["local_files_only"] == constants.HF_HUB_OFFLINE
    wanted = huggingface_hub.utils.filter_repo_objects(
        [
            "config.json",
            "model-00001-of-00002.safetensors",
            "consolidated.safetensors",
            "pytorch_model.bin",
            "original/model.safetensors",
            "tokenizer.model",
            "chat_template.jinja",
            "modeling_custom.py",
            "merges.txt",
        ],
        allow_patterns=options["allow_patterns"],
        ignore_patterns=options["ignore_patterns"],
    )
    assert list(wanted) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "tokenizer.model",
        "chat_template.jinja",
        "merges.txt",
    ]


def test_the_default_revision_is_the_hubs(root, llama_folder, hub):
    fake = hub(llama_folder)
    open_checkpoint("org/name", root=root)
    assert fake.calls[0][1]["revision"] is None


def test_an_adapter_may_come_from_the_hub(root, hub):
    hub(root / "lora")
    model = open_checkpoint("llama+org/lora", root=root)
    assert isinstance(model, AdaptedModel)
    assert model.reference == "llama+org/lora"


def test_a_folder_wins_over_the_hub(root, llama_folder, hub):
    fake = hub(ValueError("must not be asked"))
    (root / "org").mkdir()
    (root / "org" / "name").symlink_to(llama_folder)
    assert open_checkpoint("org/name", root=root).folder == root / "org" / "name"
    assert not fake.calls


class Response:
    """The part of an HTTP response that the Hub's errors look at."""

    headers: ClassVar[dict[str, str]] = {}
    request = None
    status_code = 403


RESPONSE: Any = Response()


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (errors.GatedRepoError("403\nno", response=RESPONSE), "is gated; ask for access"),
        (errors.RepositoryNotFoundError("404", response=RESPONSE), "no such Hub repository, or a"),
        (errors.RevisionNotFoundError("404", response=RESPONSE), "has no such revision"),
        (errors.HFValidationError("bad"), "not a valid Hub id"),
        (
            errors.IncompleteSnapshotError("2 file(s) are missing (a, b).\nmore", "/cache"),
            r"incomplete \(2 file\(s\) are missing \(a, b\)\); go online",
        ),
        (errors.HfHubHTTPError("\n503 Server Error\n", response=RESPONSE), "503 Server Error"),
        (ConnectionError("refused"), r"cannot be reached \(ConnectionError: refused\)"),
        (RuntimeError(""), r"cannot be reached \(RuntimeError: \)"),
    ],
)
def test_an_error_of_the_hub_becomes_one_line(root, hub, monkeypatch, error, match):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub(error)
    refuses("org/name@v1", root, match)
    refuses("org/name@v1", root, f"org/name@v1: .*; nor is there a folder {root}/org/name@v1")


def fill_cache(cache: Path, llama_folder: Path) -> Path:
    """Lay out the Hub's cache for `org/llama` at `main`."""
    repository = cache / "models--org--llama"
    snapshot = repository / "snapshots" / ("a" * 40)
    shutil.copytree(llama_folder, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    return snapshot


def test_offline_the_cache_is_used_and_nothing_else(root, llama_folder, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root / "cache"))
    snapshot = fill_cache(root / "cache", llama_folder)
    assert open_checkpoint("org/llama", root=root).folder == snapshot
    refuses("org/other", root, "not in .*/cache and HF_HUB_OFFLINE is set.*'hf download org/other")


def test_half_a_snapshot_is_never_used(root, llama_folder, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root / "cache"))
    snapshot = fill_cache(root / "cache", llama_folder)
    (snapshot / "model.safetensors").unlink()
    refuses("org/llama", root, "only safetensors models are read")
