"""A teacher that was stored teaches what the teacher itself does; its file is its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headrace.data.pack import TokenRow, pack
from headrace.model.decoder import Decoder
from headrace.training.distill.stored import DistillStored, Stored, store
from headrace.training.distill.tasks import Distill
from headrace.training.objectives.divergence import Divergence
from headrace.training.step import accumulate
from training_fixtures import VOCAB, rows
from training_fixtures import decoder as tiny


def _rows() -> list[TokenRow]:
    """Some supervised in part, with weights that are not 1."""
    made = rows(7, seed=2)
    for number, row in enumerate(made):
        row.weights[: 1 + number % 3] = 0.0
        row.weights[-1] = 0.5
    return made


def _stored(teacher: Decoder, path: Path, k: int = VOCAB, **changes: Any) -> Stored:
    values: dict[str, Any] = {
        "k": k,
        "temperature": 1.5,
        "max_tokens": 30,
        "path": path,
        "key": f"t/{k}",
    }
    return store(teacher, _rows(), **{**values, **changes})


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_all_tokens_stored_are_the_teacher(tmp_path: Path, beta: float) -> None:
    teacher, kind = tiny(1), Divergence(beta=beta, temperature=1.5)
    kept = _stored(teacher, tmp_path / "t.safetensors")
    numbers = [5, 0, 3, 6]
    from_file, itself = tiny(), tiny()
    batches = kept.batches(numbers, max_tokens=25)
    assert len(batches) > 1
    ours = accumulate(from_file, DistillStored(kind, text=0.3), batches)
    whole = pack([kept.rows[n] for n in numbers], max_tokens=99)
    theirs = accumulate(itself, Distill(teacher, kind, text=0.3), whole)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
    assert ours.metrics["divergence"] == pytest.approx(theirs.metrics["divergence"], rel=1e-5)
    for mine, other in zip(from_file.parameters(), itself.parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-6)


def test_a_few_tokens_pull_towards_the_teacher(tmp_path: Path) -> None:
    teacher, student, kind = tiny(1), tiny(), Divergence(beta=0.0)
    kept = _stored(teacher, tmp_path / "t.safetensors", k=30, temperature=1.0)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    whole = pack(list(kept.rows), max_tokens=200)
    losses: list[float] = []
    for _ in range(15):
        found = Distill(teacher, kind).measure(student, whole[0])
        losses.append(float(found.sum) / found.weight)
        optimizer.zero_grad()
        accumulate(student, DistillStored(kind), kept.batches(range(7), max_tokens=200))
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_the_file_is_used_for_what_it_was_made_of_alone(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    first = _stored(tiny(1), path, k=5)
    again = _stored(tiny(2), path, k=5)  # the key says the same teacher: the file is believed
    torch.testing.assert_close(first.logprob_PJ, again.logprob_PJ, rtol=0, atol=0)
    other = _stored(tiny(2), path, k=5, key="another")
    assert not torch.equal(first.logprob_PJ, other.logprob_PJ)
    path.write_bytes(path.read_bytes()[:100])
    mended = _stored(tiny(2), path, k=5, key="another")
    torch.testing.assert_close(mended.logprob_PJ, other.logprob_PJ, rtol=0, atol=0)
    np.testing.assert_array_equal(mended.start_N1, first.start_N1)
