"""The seam between models on disk and whatever needs their tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from evomerge.checkpoints.headers import TensorHeader


class Checkpoint(Protocol):
    """Anything named tensors can be read from, one at a time.

    Whoever constructs a checkpoint has checked it: names, shapes and byte ranges can be relied
    on. All members may be used from several threads at once.
    """

    @property
    def reference(self) -> str:
        """How the user named the model; for messages."""
        ...

    @property
    def folder(self) -> Path:
        """Where config.json and the tokenizer are; with an adapter, the folder of its base."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """The content of config.json."""
        ...

    @property
    def headers(self) -> Mapping[str, TensorHeader]:
        """Every tensor by its name, names sorted."""
        ...

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor in its stored dtype; it may be a view of the file, never write to it.

        Raises:
            ModelError: There is no such tensor, or its file changed since it was opened.
        """
        ...

    def release(self) -> None:
        """Give back the memory of what was read; tensors read before stay valid."""
        ...

    def identity(self) -> str:
        """Return a cheap fingerprint that changes when a file of the checkpoint is replaced.

        It covers config.json, the headers, and size, time and inode of the weight files, as they
        were when opened. It is not a digest of the weights: two copies of a model differ.
        """
        ...
