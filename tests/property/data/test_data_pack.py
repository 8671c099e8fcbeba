"""Packing moves sequences between batches and changes nothing in them."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from headrace.data.corpus import Mixture, batches, rows_of
from headrace.data.pack import TokenRow, cut, pack, whole
from headrace.data.sources import Document
from headrace.errors import DataError

IDS = st.lists(st.integers(0, 999), min_size=2, max_size=40)


@settings(max_examples=80, deadline=None)
@given(rows=st.lists(IDS, min_size=1, max_size=12), spare=st.integers(0, 60))
def test_every_row_is_in_one_batch_unchanged(rows: list[list[int]], spare: int) -> None:
    limit = max(len(row) for row in rows) - 1 + spare
    packed = pack([whole(row) for row in rows], max_tokens=limit)
    found: list[list[int]] = []
    for batch in packed:
        assert batch.tokens <= limit
        assert (np.diff(batch.doc_T) >= 0).all()
        for document in range(int(batch.doc_T[-1]) + 1):
            where = batch.doc_T == document
            ids, targets = batch.ids_T[where].tolist(), batch.targets_T[where].tolist()
            assert ids[1:] == targets[:-1]
            assert batch.pos_T[where].tolist() == list(range(len(ids)))
            found.append([*ids, targets[-1]])
    assert sorted(found) == sorted(rows)


@settings(max_examples=80, deadline=None)
@given(ids=st.lists(st.integers(0, 9), max_size=100), limit=st.integers(1, 30))
def test_cutting_makes_every_later_token_a_target_once(ids: list[int], limit: int) -> None:
    rows = cut(ids, max_tokens=limit)
    assert [int(i) for row in rows for i in row.ids[1:]] == ids[1:]
    assert all(1 <= len(row.ids) - 1 <= limit for row in rows)
    sizes = [len(row.ids) for row in rows]
    assert not sizes or max(sizes) - min(sizes) <= 1


def test_weights_follow_their_targets() -> None:
    row = TokenRow(ids=np.array([5, 6, 7], np.int32), weights=np.array([1, 0, 1], np.float32))
    (batch,) = pack([row], max_tokens=2)
    assert batch.targets_T.tolist() == [6, 7]
    assert batch.weight_T.tolist() == [0, 1]


def test_rows_that_fit_no_batch_are_refused() -> None:
    with pytest.raises(DataError, match="5 positions, a batch holds 4"):
        pack([whole(range(6))], max_tokens=4)
    with pytest.raises(DataError, match="at least two"):
        pack([whole([1])], max_tokens=4)
    with pytest.raises(DataError, match="max_tokens 0"):
        cut([1, 2], max_tokens=0)


def test_a_step_of_a_mixture_is_a_function_of_its_number() -> None:
    documents = [
        Document(id=str(n), source="s", licence="L", text="abcdefgh"[: n % 8 + 1])
        for n in range(30)
    ]
    rows = rows_of(documents, lambda text: [ord(c) for c in text], end_id=0, max_tokens=4)
    assert sum(int(row.ids[-1] == 0) for row in rows) == 30
    mixtures = [
        Mixture(rows=rows, per_step=5, seed=1),
        Mixture(rows=rows, per_step=0, seed=2),
    ]
    first, again = (batches(mixtures, 7, max_tokens=8) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert (one.ids_T == other.ids_T).all()
        assert (one.doc_T == other.doc_T).all()
