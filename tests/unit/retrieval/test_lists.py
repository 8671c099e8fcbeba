"""Lists of neighbours find what comparing all finds, whatever a filter leaves."""

import numpy as np
import pytest

from headrace.kernels.scan import Bytes, Floats, to_bytes
from headrace.retrieval.stores import vectors as module
from headrace.retrieval.stores.vectors import Matrix, make_lists

DIMS = 64


def crowded(count: int, seed: int) -> Floats:
    """Vectors in neighbourhoods of many sizes, as texts on few subjects are."""
    draws = np.random.default_rng(seed)
    centres = draws.normal(size=(200, DIMS))
    weights = 1 / np.arange(1, 201)
    of = draws.choice(200, count, p=weights / weights.sum())
    rows = centres[of] + 0.8 * draws.normal(size=(count, DIMS))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def matrix(rows: Floats, listed: int) -> Matrix:
    """With lists of the first rows, the others after them."""
    rounded = to_bytes(rows)
    whole = Bytes(rows=rounded.rows, scales=rounded.scales, sums=rounded.sums)

    def made(lists: "module.Lists | None", tail: slice) -> Matrix:
        return Matrix(
            generation=1,
            dimensions=DIMS,
            owner=None,
            lists=lists,
            tail=Bytes(rows=whole.rows[tail], scales=whole.scales[tail], sums=whole.sums[tail]),
            has=np.ones(len(rows) if lists is not None else listed, np.bool_),
            complete=True,
        )

    return made(make_lists(made(None, slice(0, listed))), slice(listed, len(rows)))


@pytest.fixture(scope="module")
def rows() -> Floats:
    return crowded(30_000, 1)


@pytest.fixture(scope="module")
def listed(rows: Floats) -> Matrix:
    return matrix(rows, 25_000)


@pytest.mark.parametrize("kept", [1.0, 0.5, 0.1, 0.01])
@pytest.mark.parametrize("few", [0, module.FEW])
def test_recall(
    rows: Floats, listed: Matrix, kept: float, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few = 0 lists answer even where little is left, which they otherwise need not."""
    monkeypatch.setattr(module, "FEW", few)
    draws = np.random.default_rng(2)
    hits = total = 0
    for query in crowded(60, 3):
        allowed = draws.random(len(rows)) < kept
        (places, scores), exact = listed.nearest(query, allowed, 50)
        assert exact == (allowed.sum() <= few)
        assert allowed[places].all()
        assert (np.diff(scores) <= 0).all()
        true = np.flatnonzero(allowed)
        true = true[np.argsort(-(rows[true] @ query))[:10]]
        best = places[np.argsort(-(rows[places] @ query))[:10]]
        hits += len(set(best.tolist()) & set(true.tolist()))
        total += len(true)
    assert hits / total >= (0.999 if few and kept <= 0.5 else 0.98)


def test_every_vector_is_in_one_list(listed: Matrix) -> None:
    assert listed.lists is not None
    assert listed.lists.vectors.places is not None
    assert sorted(listed.lists.vectors.places.tolist()) == list(range(25_000))
    assert (np.diff(listed.lists.starts) >= 0).all()
    assert listed.lists.starts[-1] == 25_000


def test_lists_of_lists_are_of_all(listed: Matrix) -> None:
    again = make_lists(listed)
    assert again.count == 30_000
    fresh = make_lists(listed)
    assert (again.vectors.rows == fresh.vectors.rows).all()
