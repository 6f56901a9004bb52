"""Whether models belong to one family, so that merging their tensors makes sense.

Only headers, config.json and tokenizer files are looked at. That tensors fit does not show that
the models share an ancestor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.checkpoints._config_differences import compare_configs
from evomerge.checkpoints._finding import Finding
from evomerge.checkpoints._tensor_differences import compare_tensors
from evomerge.checkpoints._tokenizer_differences import compare_tokenizers
from evomerge.checkpoints.adapted_model import AdaptedModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evomerge.checkpoints.protocol import Checkpoint


def check_family(
    base: Checkpoint,
    sources: Sequence[Checkpoint],
    *,
    one_tokenizer: bool = True,
    one_depth: bool = True,
) -> list[Finding]:
    """Return everything that speaks against merging `sources` over `base`, model by model.

    Args:
        base: The base model.
        sources: What is merged over it.
        one_tokenizer: Whether tokenizers must be the same.
        one_depth: Whether layers must be the same, in number and tensors.
    """
    findings = list(_check_declared_base(base))
    for number, source in enumerate(sources):
        findings += _check_repetition(source, [base, *sources[:number]])
        findings += _check_declared_base(source)
        findings += compare_configs(base, source, one_depth=one_depth)
        findings += compare_tensors(base, source) if one_depth else ()
        findings += compare_tokenizers(base, source) if one_tokenizer else ()
    return findings


def _check_repetition(source: Checkpoint, earlier: Sequence[Checkpoint]) -> Iterator[Finding]:
    for other in earlier:
        if _is_same(source, other):
            yield Finding(
                severity="warning",
                where=source.reference,
                message=f"has the same weights as {other.reference}",
                remedy="leave one of them out, unless it is meant to count twice",
            )
            return


def _is_same(one: Checkpoint, other: Checkpoint) -> bool:
    if isinstance(one, AdaptedModel) and isinstance(other, AdaptedModel):
        same_adapter = one.adapter.resolve() == other.adapter.resolve()
        return same_adapter and _is_same(one.base, other.base)
    if isinstance(one, AdaptedModel) or isinstance(other, AdaptedModel):
        return False
    return one.identity() == other.identity() or one.folder.resolve() == other.folder.resolve()


def _check_declared_base(checkpoint: Checkpoint) -> Iterator[Finding]:
    if not isinstance(checkpoint, AdaptedModel) or checkpoint.declared_base is None:
        return
    declared, base = checkpoint.declared_base, checkpoint.base
    known_names = {
        _last_name(base.reference),
        _last_name(str(base.folder.resolve())),
        _last_name(str(base.config.get("_name_or_path", ""))),
    }
    if _last_name(declared) not in known_names:
        yield Finding(
            severity="warning",
            where=checkpoint.reference,
            message=f"the adapter was trained on {declared!r} but is applied to {base.reference}",
            remedy="make sure that both are the same model",
        )


def _last_name(reference: str) -> str:
    name = reference.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return name.partition("@")[0].lower()
