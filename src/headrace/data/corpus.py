"""Documents and a tokenizer's `encode` -> rows to train on, and what each step takes of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.data import order
from headrace.data.pack import PackedBatch, TokenRow, cut, pack
from headrace.data.sources import Document

Encode = Callable[[str], Sequence[int]]


def rows_of(
    documents: Sequence[Document], encode: Encode, *, end_id: int, max_tokens: int
) -> list[TokenRow]:
    """Every document, with `end_id` after it, cut into rows of at most `max_tokens`."""
    return [
        row
        for document in documents
        for row in cut([*encode(document.text), end_id], max_tokens=max_tokens)
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """Rows in a shuffled order, so many of them a step."""

    rows: Sequence[TokenRow]
    per_step: int
    seed: int

    def indices(self, step: int) -> tuple[int, ...]:
        """Which rows a step takes: a pure function of (seed, step)."""
        if not self.per_step:
            return ()
        return order.documents(
            seed=self.seed, step=step, count=len(self.rows), per_step=self.per_step
        )

    def take(self, step: int) -> list[TokenRow]:
        """The rows of a step."""
        return [self.rows[index] for index in self.indices(step)]


def batches(mixtures: Sequence[Mixture], step: int, *, max_tokens: int) -> list[PackedBatch]:
    """The packed batches of one step, longest rows first so that they fit tightly."""
    rows = [row for mixture in mixtures for row in mixture.take(step)]
    rows.sort(key=lambda row: -len(row.ids))
    return pack(rows, max_tokens=max_tokens)
