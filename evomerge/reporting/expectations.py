"""What to expect of merging a family, in plain sentences that follow from its numbers."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from evomerge.sensitivity.groups import group_labels, runs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from evomerge.sensitivity.family import FamilyStatistics
    from evomerge.sensitivity.moments import DeltaMoments

NORM_RATIO = 3.0
"""Beyond, one task vector drowns another; https://arxiv.org/abs/2508.01148 rescales them then."""

SAME_WAY = 0.9
"""Kinship at which merging stops paying: Hu et al. 2024, https://arxiv.org/abs/2410.12613."""

UNRELATED = 0.1

OPPOSED = 0.6
"""Share of conflict that is clearly above the half that unrelated task vectors have."""

DEVIATIONS = 4.0
"""Standard deviations from chance at which a conflict is believed."""

Pair = tuple[int, int]


def expect(names: Sequence[str], family: FamilyStatistics) -> list[str]:
    """Say what to expect of merging models.

    Args:
        names: What to call the sources, in the order of the statistics.
        family: Their statistics.
    """
    whole, layers = family.whole(), family.layers()
    # What is true of a model need not be said again of its copies.
    first = [int((row == 0).nonzero()[0]) for row in whole.differing]
    pairs = list(combinations(sorted(set(first)), 2))
    return [
        *_equal_models(names, whole),
        *_alike(names, whole, pairs),
        *_unequal_norms(names, whole),
        *_opposed(names, layers, pairs),
        *_unchanged(names, whole, layers),
        *_unrelated(names, whole),
    ]


def _equal_models(names: Sequence[str], whole: DeltaMoments) -> Iterator[str]:
    for name, changed in zip(names, whole.changed.tolist(), strict=True):
        if not changed:
            yield f"{name} is the base model: its weight does nothing."
    for i, j in combinations(range(len(names)), 2):
        if not whole.differing[i, j] and whole.changed[i]:
            yield (
                f"{names[j]} and {names[i]} are the same model: together they only count twice; "
                "leave one out."
            )


def _alike(names: Sequence[str], whole: DeltaMoments, pairs: Sequence[Pair]) -> Iterator[str]:
    for i, j in pairs:
        cosine = float(whole.cosine[i, j])
        if cosine > SAME_WAY:
            yield (
                f"{names[i]} and {names[j]} moved the same way (cosine {cosine:.2f}): there is "
                "little to gain from both."
            )


def _unequal_norms(names: Sequence[str], whole: DeltaMoments) -> Iterator[str]:
    moved = sorted((norm, i) for i, norm in enumerate(whole.norms.tolist()) if norm)
    if not moved:
        return
    (least, small), (most, large) = moved[0], moved[-1]
    if most / least > NORM_RATIO:
        yield (
            f"{names[large]} moved {most / least:.1f} times as far as {names[small]}: at equal "
            f"weights it drowns it, so give {names[large]} less weight or search over weights."
        )


def _opposed(
    names: Sequence[str], layers: Mapping[str, DeltaMoments], pairs: Sequence[Pair]
) -> Iterator[str]:
    labels = group_labels(layers)
    for i, j in pairs:
        shares = {
            label: float(moments.weighted_conflict[i, j])
            for label, moments in zip(labels, layers.values(), strict=True)
            if _is_opposed(moments, i, j)
        }
        if shares:
            where = _list_parts(list(shares))
            yield (
                f"{names[i]} and {names[j]} pull in opposite directions in {where} "
                f"(up to {max(shares.values()):.0%} of what both change; chance gives 50%): their "
                "sum loses there, so let an operator settle signs, such as ties, or give layers "
                "weights of their own."
            )


def _is_opposed(moments: DeltaMoments, i: int, j: int) -> bool:
    # Few entries can differ from a half by chance: a sign test beside the share.
    deviations = float(2 * (moments.conflict[i, j] - 0.5) * moments.shared[i, j].sqrt())
    return float(moments.weighted_conflict[i, j]) > OPPOSED and deviations > DEVIATIONS


def _unchanged(
    names: Sequence[str], whole: DeltaMoments, layers: Mapping[str, DeltaMoments]
) -> Iterator[str]:
    labels = group_labels(layers)
    alike: dict[tuple[str, ...], list[str]] = {}
    for i, name in enumerate(names):
        still = tuple(
            label
            for label, moments in zip(labels, layers.values(), strict=True)
            if not moments.changed[i]
        )
        if still and whole.changed[i]:
            alike.setdefault(still, []).append(name)
    for still, who in alike.items():
        leaves = "leaves" if len(who) == 1 else "leave"
        yield (
            f"{_join(who)} {leaves} {_list_parts(still)} as the base has it: genes for that part "
            "do nothing."
        )


def _unrelated(names: Sequence[str], whole: DeltaMoments) -> Iterator[str]:
    moved = [i for i in range(len(names)) if whole.changed[i]]
    cosines = [float(whole.cosine[i, j]) for i, j in combinations(moved, 2)]
    if cosines and max(map(abs, cosines)) < UNRELATED:
        yield (
            f"The models moved in unrelated directions (cosines {min(cosines):.2f} to "
            f"{max(cosines):.2f}): sums of task vectors interfere little."
        )


def _list_parts(labels: Sequence[str]) -> str:
    """Layers as runs, other parts by name: `layers 0-3, 7 and embed_tokens`."""
    found = runs(int(label) for label in labels if label.isdecimal())
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in found]
    is_one = len(found) == 1 and found[0][0] == found[0][1]
    if texts:
        texts[0] = f"layer{'' if is_one else 's'} {texts[0]}"
    return _join([*texts, *(label for label in labels if not label.isdecimal())])


def _join(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
