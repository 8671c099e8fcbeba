"""Uniform numbers as a pure function of (seed, choice, position): Philox4x64-10.

Invariant: no state. The number at a position does not depend on the batch, on preemption or on what
was drawn before, so any token of any request can be drawn again alone. Source: Salmon et al. 2011,
"Parallel random numbers: as easy as 1, 2, 3"; numpy's `Philox` is the same function.
"""

_MASK = (1 << 64) - 1
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS = 10


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Four 64-bit words from a counter and a key of 64-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> 64) ^ c1 ^ k0, p1 & _MASK, (p0 >> 64) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def uniform(*, seed: int, choice: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits; a seed counts modulo 2^64."""
    word = philox((position, choice, 0, 0), (seed & _MASK, 0))[0]
    return (word >> 11) * 2.0**-53
