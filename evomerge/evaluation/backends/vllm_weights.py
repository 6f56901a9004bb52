"""Finds the weights of a running vLLM engine by the names that a checkpoint stores them under.

vLLM fuses what it can (`qkv_proj`, `gate_up_proj`), pads vocabularies, renames, and on some
processors computes with a copy of a weight in another layout. Where a tensor went is therefore not
told from names: vLLM's own loader is run once more and watched, without letting it write. Whether
the engine computes with what was found is tried out.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from evomerge.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from evomerge.checkpoints import Checkpoint


def stored_views(model: Any, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """A live model's weights by their stored names, as views of its parameters.

    Of names that are loaded to the same place only one is returned; stored tensors that vLLM does
    not load, such as a head that is tied to the embedding, are left out.

    Args:
        model: The model of a running engine.
        checkpoint: What was loaded, without adapters.

    Raises:
        ModelError: A parameter does not hold what was stored as it was stored.
    """
    parameters = dict(model.named_parameters())
    loading = _WatchedLoading(parameters)
    tensors = {name: checkpoint.read(name) for name in checkpoint.headers}
    try:
        with loading:
            model.load_weights(loading.announce(tensors))
    except (AssertionError, IndexError, KeyError, RuntimeError, ValueError) as error:
        cause = " ".join(str(error).split())
        raise _refusal(checkpoint, cause or type(error).__name__) from error
    for name, parameter in parameters.items():
        if loading.entries_set(parameter) < parameter.numel():
            raise _refusal(checkpoint, f"parameter {name} holds what is not in the checkpoint")
    views: dict[tuple[int, torch.Size], tuple[str, Tensor]] = {}
    for name, view in loading.views.items():
        views.setdefault((view.data_ptr(), view.shape), (name, view))
    return dict(views.values())


def check_use(
    views: Mapping[str, Tensor],
    checkpoint: Checkpoint,
    vocabulary: int,
    nats: Callable[[], float],
) -> None:
    """Check that the engine computes with these weights, not with copies of them.

    All tensors of one kind, whose names differ in numbers only, are negated together: a text must
    then be predicted otherwise. A tensor that both embeds tokens and predicts them could be used
    for the one and copied for the other, so the tensors with a row per token are also filled with
    ones, which must leave every token the same chance.

    Args:
        views: The weights; afterwards they are as they were.
        checkpoint: What they hold.
        vocabulary: Number of tokens that the model knows.
        nats: How badly the engine predicts some text, per token.

    Raises:
        ModelError: The engine does not notice.
    """
    kinds: dict[str, list[Tensor]] = defaultdict(list)
    for name, view in views.items():
        kinds[re.sub(r"\d+", "#", name)].append(view)
    usual = nats()
    for kind, members in kinds.items():
        for view in members:
            view.neg_()
        changed = nats() != usual
        for view in members:
            view.neg_()
        if not changed:
            raise _refusal(checkpoint, f"changing {kind} changes nothing")
    tables = {name: view for name, view in views.items() if view.shape[:1] == (vocabulary,)}
    for view in tables.values():
        view.fill_(1)
    even = math.isclose(nats(), math.log(vocabulary), rel_tol=1e-3)
    for name, view in tables.items():
        view.copy_(checkpoint.read(name))
    if not even:
        raise _refusal(checkpoint, f"the head does not follow changes of {', '.join(tables)}")


def _refusal(checkpoint: Checkpoint, found: str) -> ModelError:
    return ModelError(
        f"{checkpoint.reference}: vLLM runs it with weights in a layout that cannot be merged "
        f"into: {found}; use backend hf"
    )


class _WatchedLoading(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes where a loader would copy tensors to, and lets it write to no parameter.

    Args:
        parameters: The model's parameters by their names in it.

    Attributes:
        views: Where each tensor belongs, by its stored name.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.views: dict[str, Tensor] = {}
        self._names = {_memory(parameter): name for name, parameter in parameters.items()}
        self._given: dict[int, tuple[str, Tensor]] = {}
        self._set: dict[int, set[tuple[int, int]]] = defaultdict(set)

    def announce(self, tensors: Mapping[str, Tensor]) -> Iterable[tuple[str, Tensor]]:
        """What the loader is given: every tensor by its name."""
        self._given = {tensor.data_ptr(): (name, tensor) for name, tensor in tensors.items()}
        return iter(tensors.items())

    def entries_set(self, parameter: Tensor) -> int:
        """Number of entries that the loader would have set, padding included."""
        return sum(count for _, count in self._set[_memory(parameter)])

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Let everything happen but what would change a parameter."""
        place = args[0] if args else None
        if not (func._schema.is_mutable and isinstance(place, Tensor)):  # noqa: SLF001
            return func(*args, **(kwargs or {}))
        if _memory(place) not in self._names:
            return func(*args, **(kwargs or {}))
        self._set[_memory(place)].add((place.data_ptr(), place.numel()))
        if func is torch.ops.aten.copy_.default:
            self._note(place, args[1])
        return place

    def _note(self, place: Tensor, value: Tensor) -> None:
        parameter = self._names[_memory(place)]
        name, tensor = self._given.get(value.data_ptr(), ("", value))
        if not name or not value.shape == tensor.shape == place.shape:
            raise ValueError(f"parameter {parameter} is made of parts of tensors")
        if value.stride() != tensor.stride() or not torch.equal(place, value.to(place)):
            raise ValueError(f"parameter {parameter} does not hold {name} as it is stored")
        self.views[name] = place


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
