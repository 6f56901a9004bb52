"""What runs a model: the seam between an evaluation and the library that makes the passes."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, Protocol

from evomerge.errors import VersionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from evomerge.checkpoints import Checkpoint
    from evomerge.evaluation.passes.tokens import PreparedRequest, Tokenizer


class Plan(Protocol):
    """How some requests are answered, decided once for all weights."""

    def run(self) -> list[Any]:
        """Answer: a `LogLikelihood`, a float for rolling ones, a text for prompts.

        Raises:
            EvaluationError: Numbers are not finite; the model is broken.
        """
        ...


class Backend(Protocol):
    """A model that stays loaded: its weights are written in place, its answers asked for."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Turns requests into tokens."""
        ...

    def weights(self, base: Checkpoint) -> dict[str, Tensor]:
        """The live weights by the names that a checkpoint stores them under, to be written to.

        Args:
            base: The checkpoint that was loaded.

        Raises:
            ModelError: The backend runs a weight in another layout than it is stored in.
        """
        ...

    def changed(self) -> None:
        """Forget what followed from other weights; to be called whenever they were written."""
        ...

    def plan(self, requests: Sequence[PreparedRequest]) -> Plan:
        """What answers requests, in order."""
        ...


def check_backend(name: str) -> None:
    """Check that a backend can be used here, without importing it.

    Raises:
        VersionError: Its library is not installed.
    """
    if name == "vllm" and importlib.util.find_spec("vllm") is None:
        raise VersionError(
            "backend vllm: vllm is not installed; pip install 'evomerge[vllm]', or see "
            "docs.vllm.ai for a build for this machine's processor, or leave backend out"
        )
