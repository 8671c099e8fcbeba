"""Random pairs and answers of token ids, shared by the tests of preference training."""

import numpy as np

from headrace.data.pack import TokenRow
from headrace.training.preference.batches import AnswerRow, PairRow


def row(random: np.random.Generator, prompt: np.ndarray, *, vocab: int, longest: int) -> TokenRow:
    """The prompt and a random answer, which is supervised."""
    answer = random.integers(0, vocab, random.integers(1, longest + 1))
    return TokenRow(
        ids=np.concatenate([prompt, answer]).astype(np.int32),
        weights=np.repeat([0.0, 1.0], [len(prompt), len(answer)]).astype(np.float32),
    )


def pairs(
    count: int, *, vocab: int, seed: int = 0, longest: int = 9, margins: bool = False
) -> list[PairRow]:
    """Pairs of different lengths; an answer has 1 to `longest` tokens, a prompt 1 to 7."""
    random = np.random.default_rng(seed)
    made: list[PairRow] = []
    for number in range(count):
        prompt = random.integers(0, vocab, random.integers(1, 8))
        chosen, rejected = (row(random, prompt, vocab=vocab, longest=longest) for _ in range(2))
        made.append(
            PairRow(
                id=f"pair/{number}",
                chosen=chosen,
                rejected=rejected,
                margin=float(random.random()) if margins else 0.0,
            )
        )
    return made


def answers(count: int, *, vocab: int, seed: int = 0, longest: int = 9) -> list[AnswerRow]:
    """Every other one is good, but for the last, which is good too."""
    return [
        AnswerRow(id=pair.id, answer=pair.chosen, good=number % 2 == 0 or number == count - 1)
        for number, pair in enumerate(pairs(count, vocab=vocab, seed=seed, longest=longest))
    ]
