"""Whatever a text is and however tokens count: exact spans, nothing lost, nothing too large."""

from hypothesis import given, settings
from hypothesis import strategies as st

import chunked
from headrace.retrieval.chunking import Chunking

SIZES = st.sampled_from(
    [
        Chunking(max_tokens=16, overlap_tokens=0, min_tokens=0, parent_tokens=0),
        Chunking(max_tokens=24, overlap_tokens=8, min_tokens=8, parent_tokens=60),
        Chunking(max_tokens=40, overlap_tokens=20, min_tokens=20, parent_tokens=40),
        Chunking(max_tokens=120, overlap_tokens=16, min_tokens=30, parent_tokens=500),
    ]
)
KINDS = st.sampled_from(
    ["text/markdown", "text/plain", "text/x-python", "text/x-ruby", "text/javascript", "text/x-c"]
)


@settings(max_examples=300, deadline=None)
@given(chunked.TEXTS, SIZES, st.sampled_from(sorted(chunked.TOKENIZERS)), KINDS)
def test_chunks_keep_their_promises(
    text: str, sizes: Chunking, tokenizer: str, media_type: str
) -> None:
    chunks = chunked.cut(
        text,
        tokenizer=tokenizer,
        media_type=media_type,
        max_tokens=sizes.max_tokens,
        overlap_tokens=sizes.overlap_tokens,
        min_tokens=sizes.min_tokens,
        parent_tokens=sizes.parent_tokens,
    )
    chunked.check(text, chunks, sizes, tokenizer)


@settings(max_examples=50, deadline=None)
@given(chunked.TEXTS)
def test_what_is_above_a_chunk_changes_nothing_below_it_that_has_the_same_headings(
    text: str,
) -> None:
    """A chunk's hash depends on what it says and what stands over it, never on its place."""
    body = f"# Only\n\n{text.replace('#', '')}"
    alone = chunked.cut(body, max_tokens=40, overlap_tokens=8, min_tokens=8)
    moved = chunked.cut(
        f"# Other\n\n{'word ' * 50}\n\n{body}", max_tokens=40, overlap_tokens=8, min_tokens=8
    )
    assert {chunk.sha256 for chunk in alone} <= {chunk.sha256 for chunk in moved}
