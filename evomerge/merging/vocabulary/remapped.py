"""Models seen through the vocabulary of a merge: every row where its token has its place."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from blake3 import blake3

from evomerge.errors import MergeError, ModelError
from evomerge.merging.vocabulary.plan import ABSENT, Average, Copy, VocabularyPlan
from evomerge.merging.vocabulary.rows import vocabulary_size, vocabulary_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from evomerge.checkpoints import Checkpoint, TensorHeader


class Embeddings:
    """Gives the vocabulary tensors of all models of a merge, in the merge's vocabulary.

    Args:
        plan: The merge's vocabulary.
        models: The models by the names that the plan has for them.

    Raises:
        MergeError: A recipe names an id that its model does not have.
    """

    def __init__(self, plan: VocabularyPlan, models: Mapping[str, Checkpoint]) -> None:
        self._plan, self._models = plan, models
        self._ids = {model: torch.tensor(ids) for model, ids in plan.ids.items()}
        self._unowned = torch.tensor([token is None for token in plan.tokens])
        self._averaged = _positions(plan, Average)
        copies: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for new, fill in plan.fills.items():
            if isinstance(fill, Copy):
                copies[fill.model].append((new, fill.id))
        self._copies = {model: torch.tensor(pairs).T for model, pairs in copies.items()}
        for model, (new, old) in self._copies.items():
            size = vocabulary_size(models[model])
            if old.max() >= size:
                token = plan.tokens[int(new[old.argmax()])]
                raise MergeError(
                    f"tokenizer.tokens.{token!r}: token_id {int(old.max())} is not in {model}, "
                    f"which has {size} embeddings"
                )

    def __len__(self) -> int:
        return len(self._unowned)

    def identity(self) -> str:
        """Return a fingerprint of the vocabulary and of the models that give rows."""
        models = [(model, checkpoint.identity()) for model, checkpoint in self._models.items()]
        plan = self._plan
        content = (models, plan.tokens, sorted(plan.ids.items()), sorted(plan.fills.items()))
        return blake3(repr(content).encode()).hexdigest()

    def read(self, model: str, name: str) -> Tensor:
        """Return one model's tensor with rows in the merge's vocabulary.

        Returns:
            Shape `(len(self), *S)` for a tensor of shape `(rows, *S)`, in the widest dtype of the
            models' tensors, and at least in float32 where rows are averaged.

        Raises:
            ModelError: A model that has to give rows lacks the tensor, or its rows are of another
                shape.
        """
        own, ids = self._read(model, name), self._ids[model]
        needed = {donor for donor in self._models if donor in self._copies or len(self._averaged)}
        others = {donor: self._read(donor, name) for donor in sorted(needed)}
        self._check_rows(name, own, others)
        dtype = own.dtype
        for tensor in others.values():
            dtype = torch.promote_types(dtype, tensor.dtype)
        if len(self._averaged) or self._unowned.any():
            dtype = torch.promote_types(dtype, torch.float32)
        out = torch.zeros(len(ids), *own.shape[1:], dtype=dtype)
        present = ids != ABSENT
        out[present] = own.index_select(0, ids[present]).to(dtype)
        for donor, (new, old) in self._copies.items():
            lacking = ~present[new]
            out[new[lacking]] = others[donor].index_select(0, old[lacking]).to(dtype)
        lacking = self._averaged[~present[self._averaged]]
        if len(lacking):
            out[lacking] = self._mean(others, lacking, dtype)
        if self._unowned.any():
            out[self._unowned] = out[~self._unowned].mean(0)
        return out

    def _read(self, model: str, name: str) -> Tensor:
        return self._models[model].read(name)

    def _check_rows(self, name: str, own: Tensor, others: Mapping[str, Tensor]) -> None:
        for model, tensor in others.items():
            if tensor.shape[1:] != own.shape[1:]:
                raise ModelError(
                    f"{model}: tensor {name!r} has rows of shape {tuple(tensor.shape[1:])}, "
                    f"other models of {tuple(own.shape[1:])}; merge models of one size"
                )

    def _mean(self, tensors: Mapping[str, Tensor], new: Tensor, dtype: torch.dtype) -> Tensor:
        """The mean over the models that have the tokens, row by row."""
        total: Tensor | float = 0.0
        count: Tensor | int = 0
        for model, tensor in tensors.items():
            ids = self._ids[model][new]
            has = (ids != ABSENT).to(dtype).view(-1, *[1] * (tensor.dim() - 1))
            total = total + tensor.index_select(0, ids.clamp_min(0)).to(dtype) * has
            count = count + has
        return torch.as_tensor(total / count)


def _positions(plan: VocabularyPlan, kind: type) -> Tensor:
    found = [new for new, fill in plan.fills.items() if isinstance(fill, kind)]
    return torch.tensor(found, dtype=torch.int64)


class Remapped:
    """A checkpoint in the vocabulary of a merge; everything else is as it was.

    `headers` has the dtypes that are stored, which is what a merge stores. `read` may return
    vocabulary tensors in a wider one: what is averaged must not be rounded before it is merged.

    Args:
        checkpoint: The checkpoint as it is stored.
        model: What the plan calls it.
        embeddings: Those of all models of the merge.
    """

    def __init__(self, checkpoint: Checkpoint, model: str, embeddings: Embeddings) -> None:
        self._checkpoint, self._model, self._embeddings = checkpoint, model, embeddings
        self._vocabulary_tensors = vocabulary_tensors(checkpoint)
        self.headers: Mapping[str, TensorHeader] = MappingProxyType(
            {name: self._remap(name, header) for name, header in checkpoint.headers.items()}
        )

    @property
    def reference(self) -> str:
        """How the user named the model."""
        return self._checkpoint.reference

    @property
    def folder(self) -> Path:
        """Where config.json and the tokenizer are, as stored."""
        return self._checkpoint.folder

    @property
    def config(self) -> Mapping[str, Any]:
        """The content of config.json, as stored."""
        return self._checkpoint.config

    def read(self, name: str) -> Tensor:
        """Return one tensor; those of the vocabulary have the merge's rows.

        Raises:
            ModelError: There is no such tensor, its file changed since it was opened, or a model
                that has to give rows has other ones.
        """
        if name in self._vocabulary_tensors:
            return self._embeddings.read(self._model, name)
        return self._checkpoint.read(name)

    def release(self) -> None:
        """Give back the memory of what was read; tensors read before stay valid."""
        self._checkpoint.release()

    def identity(self) -> str:
        """Return a fingerprint of the checkpoint and of the vocabulary."""
        both = f"{self._checkpoint.identity()} {self._embeddings.identity()}"
        return blake3(both.encode()).hexdigest()

    def _remap(self, name: str, header: TensorHeader) -> TensorHeader:
        if name not in self._vocabulary_tensors:
            return header
        return replace(header, shape=(len(self._embeddings), *header.shape[1:]))
