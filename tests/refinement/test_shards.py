"""Promise: rows on disk take the bytes that were said, and come back as they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.refinement.predictions import TopK
from evomerge.refinement.shards import Shard, bytes_per_row, id_dtype, write_shard

if TYPE_CHECKING:
    import pytest


@settings(max_examples=20)
@given(
    rows=st.lists(st.integers(0, 299), min_size=1, max_size=6),
    vocabulary=st.sampled_from([300, 1 << 16, (1 << 16) + 1, 200_000]),
)
def test_a_shard_holds_tokens_exactly_and_log_probs_to_a_64th(
    tmp_path_factory: pytest.TempPathFactory, rows: list[int], vocabulary: int
) -> None:
    folder = tmp_path_factory.mktemp("shard") / "00000"
    written = TopK(
        ids=torch.tensor(rows)[:, None] + (vocabulary - 300),
        log_probs=-torch.tensor(rows)[:, None] / 15.1,
        tail=torch.full((len(rows),), -torch.inf),
        nll=torch.tensor(rows) / 7,
        vocabulary=vocabulary,
        mean=torch.tensor(rows) / -3,
        deviation=torch.tensor(rows) / 9,
    )
    digests = write_shard(folder, written)
    read = Shard(folder, digests, vocabulary).rows(0, len(rows))
    assert torch.equal(read.ids, written.ids)
    torch.testing.assert_close(read.log_probs, written.log_probs, atol=2**-6, rtol=0)
    assert torch.equal(read.tail, written.tail)
    assert torch.equal(read.nll, written.nll)
    assert read.mean is not None
    assert read.deviation is not None
    assert written.mean is not None
    assert written.deviation is not None
    assert torch.equal(read.mean, written.mean)
    assert torch.equal(read.deviation, written.deviation)
    headers = 6 * 128
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size == headers + len(rows) * bytes_per_row(1, vocabulary)


def test_tokens_take_two_bytes_as_long_as_they_can() -> None:
    assert [id_dtype(size).itemsize for size in (65_536, 65_537)] == [2, 4]
    assert bytes_per_row(64, 151_936) == 64 * 6 + 6 + 8
