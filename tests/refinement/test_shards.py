"""Promise: rows on disk take the bytes that were said, and come back as they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import OutputError
from evomerge.refinement.cache.shards import Shard, bytes_per_row, id_dtype, write_shard
from evomerge.refinement.predictions.top_k import TopK

if TYPE_CHECKING:
    from pathlib import Path


@settings(max_examples=20)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    vocabulary=st.sampled_from([300, 1 << 16, (1 << 16) + 1, 200_000]),
)
def test_a_shard_holds_tokens_exactly_and_log_probs_to_a_64th(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], vocabulary: int
) -> None:
    folder = tmp_path_factory.mktemp("shard") / "00000"
    rng = torch.Generator().manual_seed(sum(lengths))
    shape, n = (len(lengths), max(lengths)), len(lengths)
    padding = torch.arange(shape[1]) >= torch.tensor(lengths)[:, None]
    ids = torch.randint(vocabulary - 300, vocabulary, shape, generator=rng)
    log_probs = -20 * torch.rand(shape, generator=rng)
    written = TopK(
        ids=ids.masked_fill(padding, 0),
        log_probs=log_probs.masked_fill(padding, -torch.inf),
        tail=torch.full((n,), -torch.inf),
        nll=torch.rand(n, generator=rng),
        vocabulary=vocabulary,
        mean=-torch.rand(n, generator=rng),
        deviation=torch.rand(n, generator=rng),
    )
    digests = write_shard(folder, written)
    shard = Shard(folder, digests, vocabulary)
    read = shard.rows(0, n)
    assert torch.equal(read.ids, written.ids)
    torch.testing.assert_close(read.log_probs, written.log_probs, atol=2**-6, rtol=0)
    assert torch.equal(read.tail, written.tail)
    assert torch.equal(read.nll, written.nll)
    assert torch.equal(shard.rows(n - 1, n).ids, written.ids[-1:, : lengths[-1]])
    assert read.mean is not None
    assert read.deviation is not None
    assert written.mean is not None
    assert written.deviation is not None
    assert torch.equal(read.mean, written.mean)
    assert torch.equal(read.deviation, written.deviation)
    headers = 7 * 128
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size == headers + sum(bytes_per_row(length, vocabulary) for length in lengths)


def test_a_row_with_more_tokens_than_can_be_counted_is_refused(tmp_path: Path) -> None:
    one = torch.zeros(1)
    ids = torch.arange(1 << 16)[None]
    rows = TopK(ids=ids, log_probs=-ids.float(), tail=one, nll=one, vocabulary=1 << 16)
    with pytest.raises(
        OutputError, match=r"a row has 65536 tokens, allowed: at most 65535; lower cache\.k"
    ):
        write_shard(tmp_path / "00000", rows)


def test_tokens_take_two_bytes_as_long_as_they_can() -> None:
    assert [id_dtype(size).itemsize for size in (65_536, 65_537)] == [2, 4]
    assert [bytes_per_row(k, 151_936) for k in (8, 16, 32, 64, 128)] == [64, 112, 208, 400, 784]
