"""A local model folder as the Hub lays it out: config.json and safetensors, whole or in shards."""

from __future__ import annotations

from collections import defaultdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from evomerge.checkpoints._confinement import confined
from evomerge.checkpoints._mapped_file import MappedFile
from evomerge.checkpoints.json_files import parse_object, read_bytes, read_object
from evomerge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from evomerge.checkpoints.headers import TensorHeader

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class ModelFolder:
    """A checkpoint in a folder, its tensors memory-mapped.

    Args:
        folder: The folder.
        reference: How the user named it; the folder if left out.

    Raises:
        ModelError: The folder is incomplete, inconsistent, or needs code or pickles to be read.
    """

    def __init__(self, folder: Path, *, reference: str | None = None) -> None:
        self.folder = folder.absolute()
        self.reference = str(folder) if reference is None else reference
        _check_layout(self.folder)
        config_file = confined(self.folder, "config.json")
        config_bytes = read_bytes(config_file)
        self.config: Mapping[str, Any] = MappingProxyType(parse_object(config_bytes, config_file))
        _check_config(self.config, config_file)
        self._files = _open_weights(self.folder)
        self.headers: Mapping[str, TensorHeader] = MappingProxyType(
            dict(sorted((n, h) for f in self._files.values() for n, h in f.headers.items()))
        )
        self._config_digest = blake3(config_bytes).hexdigest()

    def __repr__(self) -> str:
        return f"ModelFolder({self.reference!r})"

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor as a view of its file, in its stored dtype.

        Raises:
            ModelError: There is no such tensor, or its file changed since it was opened.
        """
        header = self.headers.get(name)
        if header is None:
            raise ModelError(f"{self.reference}: has no tensor {name!r}.")
        return self._files[header.file].read(header)

    def release(self) -> None:
        """Give back the memory of what was read; tensors read before stay valid."""
        for file in self._files.values():
            file.release()

    def identity(self) -> str:
        """Return a fingerprint of config.json, headers and file stamps, as when opened."""
        files = sorted(file.fingerprint() for file in self._files.values())
        return blake3("\n".join([self._config_digest, *files]).encode()).hexdigest()


def _check_config(config: Mapping[str, Any], file: Path) -> None:
    if config.get("auto_map"):
        raise ModelError(
            f"{file}: the model needs remote code (auto_map), which is not run; if transformers "
            "itself knows the architecture, remove auto_map from a local copy."
        )
    if config.get("quantization_config"):
        raise ModelError(
            f"{file}: the model is quantised (quantization_config); merge the unquantised model "
            "and quantise the result."
        )
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        raise ModelError(
            f"{file}: names no architectures; expected a list like ['LlamaForCausalLM']."
        )


def _open_weights(folder: Path) -> dict[Path, MappedFile]:
    """Open the weight files of a model folder, by path, and check them against the index."""
    if not (folder / INDEX).exists():
        file = confined(folder, SINGLE)
        return {file: MappedFile(file)}
    shards = _read_index(folder)
    if (folder / SINGLE).exists() and SINGLE not in shards:
        raise ModelError(
            f"{folder}: has both {SINGLE} and an index of other shards; remove the outdated one."
        )
    paths = {confined(folder, shard): names for shard, names in sorted(shards.items())}
    files = {}
    for file, names in paths.items():
        if not file.exists():
            raise ModelError(f"{file}: the shard is missing; {INDEX} names it, so fetch it.")
        files[file] = MappedFile(file)
        _check_shard(file, expected=names, found=set(files[file].headers))
    return files


def _read_index(folder: Path) -> dict[str, set[str]]:
    """Return the tensor names by shard, as the index has them."""
    index_file = confined(folder, INDEX)
    weight_map = read_object(index_file).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index_file}: has no weight_map; fetch the file again.")
    shards: dict[str, set[str]] = defaultdict(set)
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not shard.endswith(".safetensors"):
            raise ModelError(
                f"{index_file}: puts tensor {name!r} in {shard!r}, which is no .safetensors file; "
                "fetch the index again."
            )
        shards[shard].add(name)
    return shards


def _check_shard(file: Path, *, expected: set[str], found: set[str]) -> None:
    if missing := sorted(expected - found):
        raise ModelError(f"{file}: lacks {_list_names(missing)}, which {INDEX} puts there.")
    if extra := sorted(found - expected):
        raise ModelError(f"{file}: holds {_list_names(extra)}, which {INDEX} does not put there.")


def _list_names(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"tensor {shown}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _check_layout(folder: Path) -> None:
    """Say what is wrong with a folder that has no weights to open."""
    if (folder / SINGLE).exists() or (folder / INDEX).exists():
        return
    if any(any(folder.glob(pattern)) for pattern in PICKLES):
        problem = "has only pickled weights; pickle not accepted, convert to safetensors elsewhere"
    elif (folder / "adapter_config.json").exists():
        problem = "is an adapter, not a model; write it as BASE+ADAPTER"
    elif any(folder.glob("*.safetensors")):
        problem = f"has safetensors but neither {SINGLE} nor {INDEX}; fetch what is missing"
    else:
        problem = f"has neither {SINGLE} nor {INDEX}; only safetensors models are read"
    raise ModelError(f"{folder}: {problem}.")
