"""Losses and gradients against plain torch; packing and accumulation change neither."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

import training_fixtures as fx
from headrace.data.pack import PackedBatch, TokenRow, pack
from headrace.errors import DataError
from headrace.model.decoder import Decoder
from headrace.training import logprobs, objectives
from headrace.training.evaluate import HeldOut, score
from headrace.training.step import accumulate
from headrace.training.task import NextToken, Sft, hidden


def _gradients(decoder: Decoder) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in decoder.named_parameters() if p.grad is not None}
    decoder.zero_grad()
    return found


def _assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        limit = 1e-5 * float(other[name].abs().max())
        assert float((one[name] - other[name]).abs().max()) <= limit, name


def _plain(decoder: Decoder, batch: PackedBatch) -> torch.Tensor:
    logits = decoder.logits(hidden(decoder, batch))
    losses = functional.cross_entropy(logits, torch.from_numpy(batch.targets_T), reduction="none")
    return (losses * torch.from_numpy(batch.weight_T)).sum()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("chunk", [3, 512])
def test_chunked_cross_entropy_is_torchs(
    tied: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_ROWS", chunk)
    decoder = fx.decoder(tied=tied)
    (batch,) = pack(fx.masked(1), max_tokens=999)
    expected = _plain(decoder, batch)
    expected.backward()
    oracle = _gradients(decoder)
    loss = objectives.sft(hidden(decoder, batch), decoder.head_VD, batch)
    loss.sum.backward()
    assert float(loss.sum.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert loss.weight == batch.weight_T.sum()
    _assert_close(_gradients(decoder), oracle)


def test_evaluation_takes_no_gradient() -> None:
    decoder = fx.decoder()
    batches = pack(fx.rows(5), max_tokens=50)
    found = score(decoder, HeldOut(batches=batches, target_bytes=100))
    nats = sum(float(_plain(decoder, batch).detach()) for batch in batches)
    assert found.loss * found.tokens == pytest.approx(nats, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(nats / np.log(2) / 100, rel=1e-5)
    assert found.perplexity == pytest.approx(np.exp(found.loss), rel=1e-6)
    with pytest.raises(DataError, match="nothing was held out"):
        score(decoder, HeldOut(batches=[], target_bytes=0))


@pytest.mark.parametrize("max_tokens", [20, 37, 60])
def test_micro_batches_add_up_to_the_big_batch(max_tokens: int) -> None:
    decoder = fx.decoder()
    rows = fx.masked(2)
    whole = accumulate(decoder, Sft(), pack(rows, max_tokens=999))
    oracle = _gradients(decoder)
    split = pack(rows, max_tokens=max_tokens)
    assert len(split) > 1
    parts = accumulate(decoder, Sft(), split)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert parts.weight == whole.weight
    _assert_close(_gradients(decoder), oracle)


def test_packed_is_unpacked_and_documents_are_blind_to_each_other() -> None:
    decoder = fx.decoder()
    rows = fx.rows(6)
    (packed,) = pack(rows, max_tokens=999)
    hidden_TD = hidden(decoder, packed).detach()
    apart = [hidden(decoder, pack([row], max_tokens=99)[0]).detach() for row in rows]
    alone = torch.cat(apart)
    assert float((hidden_TD - alone).abs().max()) <= 1e-5 * float(alone.abs().max())
    # Another first document leaves every other one's hidden states bitwise as they were.
    first = packed.doc_T == 0
    other = hidden(decoder, replace(packed, ids_T=np.where(first, 1, packed.ids_T)))
    rest = torch.from_numpy(~first)
    assert torch.equal(other[rest], hidden_TD[rest])
    assert not torch.equal(other, hidden_TD)


def test_a_document_with_an_empty_mask_is_refused() -> None:
    decoder = fx.decoder()
    rows = fx.rows(3)
    empty = TokenRow(ids=rows[1].ids, weights=np.zeros(len(rows[1].ids), np.float32))
    (batch,) = pack([rows[0], empty, rows[2]], max_tokens=99)
    with pytest.raises(DataError, match="document 1 of the batch has no supervised token"):
        objectives.sft(hidden(decoder, batch), decoder.head_VD, batch)
    with pytest.raises(DataError, match="no supervised token"):
        accumulate(decoder, NextToken(), pack([empty], max_tokens=99))
