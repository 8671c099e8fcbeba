"""The pool: names, sharing, the order in which the cache forgets, and leaks that are noticed."""

import pytest

from headrace.engine.blocks import BlockManager, block_digest, root_digest
from headrace.errors import HeadraceError

ROOT = root_digest("model")


def chain(tokens: list[int], size: int = 2, root: bytes = ROOT) -> list[bytes]:
    digests: list[bytes] = []
    for at in range(0, len(tokens) // size * size, size):
        digests.append(block_digest(digests[-1] if digests else root, tokens[at : at + size]))
    return digests


def fill(blocks: BlockManager, tokens: list[int]) -> list[int]:
    """Allocate, name and keep the blocks of some tokens."""
    digests = chain(tokens)
    table = blocks.allocate(len(digests))
    for at, block in enumerate(table):
        blocks.publish(
            block,
            parent=digests[at - 1] if at else ROOT,
            digest=digests[at],
            tokens=tokens[2 * at : 2 * at + 2],
        )
    return table


def hits(blocks: BlockManager, tokens: list[int]) -> tuple[int, ...]:
    return blocks.match(ROOT, chain(tokens), tokens)


def test_domains_cannot_be_confused() -> None:
    domains = [("a", "b"), ("ab",), ("a", "b", ""), ("", "ab"), ("b", "a"), ()]
    assert len({root_digest(*domain) for domain in domains}) == len(domains)
    assert block_digest(ROOT, [1, 2]) != block_digest(ROOT, [2, 1])
    assert block_digest(ROOT, [1, 2]) != block_digest(block_digest(ROOT, [1, 2]), [1, 2])


def test_the_longest_known_prefix_is_found() -> None:
    blocks = BlockManager(blocks=8, block_tokens=2)
    table = fill(blocks, [1, 2, 3, 4, 5, 6])
    assert hits(blocks, [1, 2, 3, 4, 5, 6]) == tuple(table)
    assert hits(blocks, [1, 2, 3, 4, 9, 9]) == tuple(table[:2])
    assert hits(blocks, [3, 4]) == ()
    assert hits(blocks, []) == ()


def test_a_collision_is_a_miss() -> None:
    blocks = BlockManager(blocks=4, block_tokens=2)
    (block,) = blocks.allocate(1)
    [digest] = chain([1, 2])
    blocks.publish(block, parent=ROOT, digest=digest, tokens=[8, 9])
    assert hits(blocks, [1, 2]) == ()


def test_the_free_list_is_the_cache() -> None:
    blocks = BlockManager(blocks=4, block_tokens=2)
    table = fill(blocks, [1, 2, 3, 4])
    assert (blocks.used, blocks.free, blocks.cached) == (2, 2, 0)
    blocks.release(table)
    assert (blocks.used, blocks.free, blocks.cached) == (0, 4, 2)
    found = hits(blocks, [1, 2, 3, 4])
    assert blocks.idle(found) == 2
    blocks.share(found)
    blocks.share(found)
    assert (blocks.used, blocks.cached, blocks.idle(found)) == (2, 0, 0)
    blocks.check_integrity([found, found])
    blocks.release(found)
    blocks.release(found)
    blocks.check_integrity([])


def test_the_end_of_a_prefix_is_forgotten_first_and_unnamed_blocks_before_it() -> None:
    blocks = BlockManager(blocks=4, block_tokens=2)
    table = fill(blocks, [1, 2, 3, 4])
    table += blocks.allocate(1)
    blocks.release(table)
    reused = blocks.allocate(2)  # the never used block and the unnamed one
    assert set(reused).isdisjoint(table[:2])
    assert hits(blocks, [1, 2, 3, 4]) == tuple(table[:2])
    assert blocks.allocate(1) == [table[1]]
    assert hits(blocks, [1, 2, 3, 4]) == (table[0],)


def test_least_recently_used_goes_first() -> None:
    blocks = BlockManager(blocks=2, block_tokens=2)
    old, new = fill(blocks, [1, 2]), fill(blocks, [3, 4])
    blocks.release(old)
    blocks.release(new)
    touched = hits(blocks, [1, 2])
    blocks.share(touched)
    blocks.release(touched)
    assert blocks.allocate(1) == new


def test_a_name_stays_with_its_first_block() -> None:
    blocks = BlockManager(blocks=4, block_tokens=2)
    first, second = fill(blocks, [1, 2]), fill(blocks, [1, 2])
    assert hits(blocks, [1, 2]) == tuple(first)
    blocks.release(second)
    assert blocks.cached == 0
    blocks.check_integrity([first])


def test_misuse_is_an_error() -> None:
    blocks = BlockManager(blocks=2, block_tokens=2)
    with pytest.raises(HeadraceError, match="3 blocks asked for, 2 are free"):
        blocks.allocate(3)
    with pytest.raises(HeadraceError, match="released by nobody"):
        blocks.release([0])


def test_leaks_and_wrong_names_are_noticed() -> None:
    blocks = BlockManager(blocks=2, block_tokens=2)
    table = blocks.allocate(1)
    with pytest.raises(HeadraceError, match="1 references, 0 holders"):
        blocks.check_integrity([])
    blocks.check_integrity([table])
    blocks._named[b"stray"] = 1
    with pytest.raises(HeadraceError, match="names for fewer"):
        blocks.check_integrity([table])
