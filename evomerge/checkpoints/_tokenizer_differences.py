"""Whether two model folders turn text into the same ids, told from their files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.checkpoints._finding import Finding, shorten
from evomerge.checkpoints.tokenizer import chat_template, tokenizer_digest, vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evomerge.checkpoints.protocol import Checkpoint


def compare_tokenizers(base: Checkpoint, source: Checkpoint) -> Iterator[Finding]:
    """Yield what differs in vocabulary, other tokenizer settings and chat template."""
    ours, theirs = tokenizer_digest(base.folder), tokenizer_digest(source.folder)
    if ours != theirs:
        yield _explain_difference(base, source, is_comparable=None not in (ours, theirs))
    if chat_template(base.folder) != chat_template(source.folder):
        yield Finding(
            severity="warning",
            where=source.reference,
            message=f"the chat template differs from that of {base.reference}",
            remedy=f"none needed; the merged model takes that of {base.reference}",
        )


def _explain_difference(base: Checkpoint, source: Checkpoint, *, is_comparable: bool) -> Finding:
    ours, theirs = vocabulary(base.folder), vocabulary(source.folder)
    if not is_comparable:
        return Finding(
            severity="warning",
            where=source.reference,
            message=f"only one of {base.reference} and this model has a tokenizer",
            remedy="make sure by hand that both were trained with the same one",
        )
    if ours is None or theirs is None:
        return Finding(
            severity="error",
            where=source.reference,
            message=f"its tokenizer file differs from that of {base.reference}, and one of them "
            "does not tell its vocabulary",
            remedy="save both with a tokenizer.json, or leave this model out",
        )
    if ours == theirs:
        return Finding(
            severity="warning",
            where=source.reference,
            message=f"same vocabulary as {base.reference}, but other tokenizer settings",
            remedy=f"none needed; the merged model takes the tokenizer of {base.reference}",
        )
    both = sorted(ours.keys() | theirs.keys())
    others = [repr(token) for token in both if ours.get(token) != theirs.get(token)]
    return Finding(
        severity="error",
        where=source.reference,
        message=f"vocabularies differ: {len(theirs)} tokens against {len(ours)} in "
        f"{base.reference}; {len(others)} have another id or are missing: {shorten(others)}",
        remedy="retrain or convert one model to the other's tokenizer, remove its added tokens, "
        "or leave it out",
    )
