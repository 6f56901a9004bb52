"""Whether two checkpoints have the same tensors, told from their headers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.checkpoints._finding import Finding, shorten
from evomerge.checkpoints.adapted_model import AdaptedModel
from evomerge.layout import Component, locate

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from evomerge.checkpoints.protocol import Checkpoint


def compare_tensors(base: Checkpoint, source: Checkpoint) -> Iterator[Finding]:
    """Yield what differs in names, shapes and dtypes."""
    yield from _compare_heads(base, source)
    yield from _compare_names(base, source)
    yield from _compare_shapes(base, source)
    yield from _compare_dtypes(base, source)


def _compare_heads(base: Checkpoint, source: Checkpoint) -> Iterator[Finding]:
    base_heads, source_heads = _heads(base), _heads(source)
    if bool(base_heads) == bool(source_heads):
        return
    with_head, without_head = (base, source) if base_heads else (source, base)
    head = (base_heads | source_heads).pop()
    if not base_heads and source.config.get("tie_word_embeddings") is True:
        yield Finding(
            severity="warning",
            where=source.reference,
            message=f"stores {head!r} although its head is tied to the embedding",
            remedy="none needed; the copy is left out",
        )
        return
    yield Finding(
        severity="error",
        where=source.reference,
        message=f"{with_head.reference} has its own head ({head!r}), the head of "
        f"{without_head.reference} is tied to its embedding",
        remedy=f"save {without_head.reference} with an untied head (tie_word_embeddings: false)",
    )


def _compare_names(base: Checkpoint, source: Checkpoint) -> Iterator[Finding]:
    heads = _heads(base) ^ _heads(source)
    missing = [repr(n) for n in base.headers if n not in source.headers.keys() | heads]
    extra = [repr(n) for n in source.headers if n not in base.headers.keys() | heads]
    remedy = "merge models fine-tuned from one base, or leave this one out"
    if missing:
        yield Finding(
            severity="error",
            where=source.reference,
            message=f"lacks {len(missing)} tensors of {base.reference}: {shorten(missing)}",
            remedy=remedy,
        )
    if extra:
        yield Finding(
            severity="error",
            where=source.reference,
            message=f"has {len(extra)} tensors that {base.reference} lacks: {shorten(extra)}",
            remedy=remedy,
        )


def _compare_shapes(base: Checkpoint, source: Checkpoint) -> Iterator[Finding]:
    others = []
    for name in _shared(base, source):
        ours, theirs = base.headers[name].shape, source.headers[name].shape
        if ours == theirs:
            continue
        is_vocabulary = locate(name).component in {Component.EMBEDDING, Component.HEAD}
        if is_vocabulary and ours[1:] == theirs[1:]:
            yield _vocabulary_finding(base, source, name)
        else:
            others.append(f"{name!r} {theirs} against {ours}")
    if others:
        yield Finding(
            severity="error",
            where=source.reference,
            message=f"{len(others)} tensors have other shapes than in {base.reference}: "
            f"{shorten(others)}",
            remedy="merge models of one size, or leave this one out",
        )


def _vocabulary_finding(base: Checkpoint, source: Checkpoint, name: str) -> Finding:
    ours, theirs = base.headers[name].shape[:1], source.headers[name].shape[:1]
    return Finding(
        severity="error",
        where=source.reference,
        message=f"vocabulary sizes differ: {name!r} has {_rows(theirs)} rows, "
        f"{_rows(ours)} in {base.reference}",
        remedy="resize one model's embeddings to the other's (transformers' "
        "resize_token_embeddings), cut rows that are only padding, or leave this model out",
    )


def _rows(shape: tuple[int, ...]) -> int:
    return shape[0] if shape else 1


def _compare_dtypes(base: Checkpoint, source: Checkpoint) -> Iterator[Finding]:
    integers, floats = [], set()
    # An adapter makes float32 of what it updates; what counts is the dtype that was trained.
    ours_stored, theirs_stored = _without_adapters(base), _without_adapters(source)
    for name in _shared(base, source):
        ours, theirs = ours_stored.headers[name].dtype, theirs_stored.headers[name].dtype
        if ours == theirs:
            continue
        if ours.is_floating_point and theirs.is_floating_point:
            floats.add(f"{_short(theirs)} against {_short(ours)}")
        else:
            integers.append(f"{name!r} {_short(theirs)} against {_short(ours)}")
    if integers:
        yield Finding(
            severity="error",
            where=source.reference,
            message=f"{len(integers)} tensors differ in dtype from {base.reference} and are not "
            f"all floating point: {shorten(integers)}",
            remedy="save both models in the same dtype",
        )
    if floats:
        yield Finding(
            severity="warning",
            where=source.reference,
            message=f"dtype differs from {base.reference}: {shorten(sorted(floats))}",
            remedy="none needed; merging computes in float32",
        )


def _without_adapters(checkpoint: Checkpoint) -> Checkpoint:
    while isinstance(checkpoint, AdaptedModel):
        checkpoint = checkpoint.base
    return checkpoint


def _heads(checkpoint: Checkpoint) -> set[str]:
    return {n for n in checkpoint.headers if locate(n).component is Component.HEAD}


def _shared(base: Checkpoint, source: Checkpoint) -> list[str]:
    return [name for name in base.headers if name in source.headers]


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
