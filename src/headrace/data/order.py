"""(seed, step) -> which documents that step trains on: a pure function, so resuming is exact.

Each epoch visits every document once, in an order that a Feistel network computes from the seed;
nothing is stored and no generator's state has to be saved. Method: cycle walking over a balanced
Feistel network (Black & Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002); four
rounds of SHA-256 are far more mixing than a data order needs.
"""

import hashlib

from headrace.errors import DataError

_ROUNDS = 4


def documents(*, seed: int, step: int, count: int, per_step: int) -> tuple[int, ...]:
    """The indices, below `count`, of step `step`; epochs follow each other without a seam.

    Raises:
        DataError: No documents, or a negative step.
    """
    if count < 1 or per_step < 1:
        raise DataError(
            f"cannot order {count} documents, {per_step} a step; need at least one each"
        )
    if step < 0:
        raise DataError(f"step {step} is negative; steps count from 0")
    first = step * per_step
    return tuple(
        permuted(position % count, count=count, key=f"{seed}/{position // count}")
        for position in range(first, first + per_step)
    )


def permuted(index: int, *, count: int, key: str) -> int:
    """Where the permutation of `range(count)` named by `key` sends `index`."""
    half_bits = max(1, ((count - 1).bit_length() + 1) // 2)
    mask = (1 << half_bits) - 1
    value = index
    while True:
        left, right = value >> half_bits, value & mask
        for number in range(_ROUNDS):
            digest = hashlib.sha256(f"{key}/{number}/{right}".encode()).digest()
            left, right = right, left ^ (int.from_bytes(digest[:4], "big") & mask)
        value = (left << half_bits) | right
        # Out of range: walk the cycle on; it comes back, because this is a permutation.
        if value < count:
            return value
