"""The KV pool's blocks: who holds which, and which prefixes they still contain.

A full block is named by a chained digest: SHA-256 over the parent block's digest and its token ids,
from a root that separates model, adapter and tenant salt. The free list IS the cache: a released
block keeps its name and waits, least recently used first, until it is needed for something else.

Invariants: a block is free exactly when nobody refers to it; a name leads to one block and back; a
hit is given out only after its parent and its token ids were compared: a collision is a miss.

Sources: vLLM's hash-chained blocks and nano-vllm's free list that is the cache.
"""

import hashlib
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headrace.errors import HeadraceError


@dataclass(frozen=True, kw_only=True, slots=True)
class _Content:
    digest: bytes
    parent: bytes
    tokens: tuple[int, ...]


def root_digest(*domain: str) -> bytes:
    """The parent of a first block: different for any two lists of strings."""
    state = hashlib.sha256(b"headrace kv 1")
    for part in domain:
        data = part.encode("utf-8", "surrogatepass")
        state.update(len(data).to_bytes(8, "little") + data)
    return state.digest()


def block_digest(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The name of a full block after `parent`."""
    return hashlib.sha256(parent + array("q", tokens).tobytes()).digest()


class BlockManager:
    """Allocates, shares and remembers blocks.

    Args:
        blocks: Size of the pool.
        block_tokens: Tokens of each.
    """

    def __init__(self, *, blocks: int, block_tokens: int) -> None:
        self.total = blocks
        self.block_tokens = block_tokens
        self._references = [0] * blocks
        self._contents: list[_Content | None] = [None] * blocks
        self._named: dict[bytes, int] = {}
        self._free = OrderedDict[int, None]((block, None) for block in range(blocks))

    @property
    def free(self) -> int:
        """Blocks that can be allocated, cached ones included."""
        return len(self._free)

    @property
    def cached(self) -> int:
        """Free blocks whose content can still be hit."""
        return len(self._named) - sum(
            1 for block in self._named.values() if self._references[block]
        )

    @property
    def used(self) -> int:
        return self.total - len(self._free)

    def blocks_for(self, tokens: int) -> int:
        """Blocks that `tokens` tokens occupy."""
        return -(-tokens // self.block_tokens)

    def match(
        self, root: bytes, digests: Sequence[bytes], tokens: Sequence[int]
    ) -> tuple[int, ...]:
        """The blocks that hold the longest known prefix; not yet referred to.

        Args:
            root: Parent of the first block.
            digests: Chain of the full blocks that may be hit.
            tokens: At least the tokens of those blocks.
        """
        hits: list[int] = []
        parent = root
        for at, digest in enumerate(digests):
            block = self._named.get(digest)
            if block is None:
                break
            start = at * self.block_tokens
            expected = _Content(
                digest=digest,
                parent=parent,
                tokens=tuple(tokens[start : start + self.block_tokens]),
            )
            if self._contents[block] != expected:
                break
            hits.append(block)
            parent = digest
        return tuple(hits)

    def idle(self, blocks: Iterable[int]) -> int:
        """How many of `blocks` are in the free list now."""
        return sum(1 for block in blocks if not self._references[block])

    def share(self, blocks: Iterable[int]) -> None:
        """Refer to blocks that `match` found."""
        for block in blocks:
            if not self._references[block]:
                del self._free[block]
            self._references[block] += 1

    def allocate(self, count: int) -> list[int]:
        """Take `count` free blocks, least recently used first; what they held is forgotten."""
        if count > len(self._free):
            raise HeadraceError(f"{count} blocks asked for, {len(self._free)} are free")
        taken: list[int] = []
        for _ in range(count):
            block, _ = self._free.popitem(last=False)
            content = self._contents[block]
            if content is not None:
                del self._named[content.digest]
                self._contents[block] = None
            self._references[block] = 1
            taken.append(block)
        return taken

    def publish(self, block: int, *, parent: bytes, digest: bytes, tokens: Sequence[int]) -> None:
        """Name a full, computed block; a name that another block has already stays with it."""
        if digest in self._named:
            return
        self._named[digest] = block
        self._contents[block] = _Content(digest=digest, parent=parent, tokens=tuple(tokens))

    def release(self, blocks: Sequence[int]) -> None:
        """Give up a sequence's table, in order: its end is forgotten before its beginning."""
        for block in reversed(blocks):
            if not self._references[block]:
                raise HeadraceError(f"block {block} released by nobody who holds it")
            self._references[block] -= 1
            if not self._references[block]:
                self._free[block] = None
                if self._contents[block] is None:
                    self._free.move_to_end(block, last=False)

    def check_integrity(self, tables: Iterable[Sequence[int]]) -> None:
        """Compare every count with the tables of all sequences that hold blocks.

        Raises: HeadraceError: A leak or a wrong name, which is a bug.
        """
        held = Counter(block for table in tables for block in table)
        for block in range(self.total):
            content = self._contents[block]
            wrong = (
                self._references[block] != held[block]
                or (self._references[block] == 0) != (block in self._free)
                or (content is not None and self._named.get(content.digest) != block)
            )
            if wrong:
                raise HeadraceError(
                    f"block {block}: {self._references[block]} references, {held[block]} holders, "
                    f"{'free' if block in self._free else 'not free'}, content {content}"
                )
        if len(self._named) != sum(content is not None for content in self._contents):
            raise HeadraceError(f"{len(self._named)} names for fewer named blocks")
