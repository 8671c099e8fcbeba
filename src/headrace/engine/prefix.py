"""What of a sequence the cache has, and what of it the cache may learn.

Invariant: a hit never covers the last known token, whose row is to be sampled from, nor a prompt
whose logits are asked for; a block is published only once it is full and its rows have run.
"""

from headrace.engine.blocks import BlockManager, block_digest, root_digest
from headrace.engine.request import EngineRequest, Sequence


class PrefixCache:
    """The sequences' side of a `BlockManager`'s names.

    Args:
        blocks: The pool.
        domain: What separates caches besides the salt: model fingerprint, adapter.
        shared: Requests find each other's prefixes; else only a request's own choices and its own
            restarts do.
    """

    def __init__(self, blocks: BlockManager, *, domain: tuple[str, ...], shared: bool) -> None:
        self._blocks = blocks
        self._domain = domain
        self._shared = shared

    def find(self, sequence: Sequence) -> tuple[int, ...]:
        """Blocks with the sequence's beginning."""
        if sequence.scores_prompt:
            return ()
        size = self._blocks.block_tokens
        count = (len(sequence) - 1) // size
        self._chain(sequence, count)
        tokens = sequence.tokens(0, count * size)
        return self._blocks.match(self._root(sequence.request), sequence.digests[:count], tokens)

    def publish(self, sequence: Sequence) -> None:
        """Name the sequence's blocks that are full and computed by now."""
        size = self._blocks.block_tokens
        full = sequence.computed // size
        if full == sequence.published:
            return
        self._chain(sequence, full)
        for at in range(sequence.published, full):
            self._blocks.publish(
                sequence.blocks[at],
                parent=sequence.digests[at - 1] if at else self._root(sequence.request),
                digest=sequence.digests[at],
                tokens=sequence.tokens(at * size, (at + 1) * size),
            )
        sequence.published = full

    def _root(self, request: EngineRequest) -> bytes:
        if self._shared:
            return root_digest("shared", *self._domain, request.salt)
        return root_digest("alone", *self._domain, request.salt, request.id)

    def _chain(self, sequence: Sequence, count: int) -> None:
        """Make the digests of its first `count` blocks known."""
        size, digests = self._blocks.block_tokens, sequence.digests
        for at in range(len(digests), count):
            parent = digests[at - 1] if at else self._root(sequence.request)
            digests.append(block_digest(parent, sequence.tokens(at * size, (at + 1) * size)))
