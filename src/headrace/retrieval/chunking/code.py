"""Source code → blocks: definitions whole, with comments above them; large ones by their members.

By tree-sitter's grammar where there is one (extra `documents`), else by indentation: a block begins
at a line without any, after a blank one.
"""

import importlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from headrace.retrieval.chunking.blocks import Block, Kind

Fits = Callable[[int, int], bool]
"""Whether a span is small enough to be a chunk."""

_GRAMMARS = {
    "text/x-python": ("tree_sitter_python", "language"),
    "text/javascript": ("tree_sitter_javascript", "language"),
    "text/typescript": ("tree_sitter_typescript", "language_typescript"),
    "text/tsx": ("tree_sitter_typescript", "language_tsx"),
    "text/x-java": ("tree_sitter_java", "language"),
    "text/x-go": ("tree_sitter_go", "language"),
    "text/x-rust": ("tree_sitter_rust", "language"),
    "text/x-c": ("tree_sitter_c", "language"),
    "text/x-c++": ("tree_sitter_cpp", "language"),
}
_BODIES = ("body", "block", "declaration_list", "class_body", "field_declaration_list")
_BEFORE = ("comment", "line_comment", "block_comment", "decorator", "attribute_item")
_DEEPEST = 12


def code_blocks(text: str, media_type: str, fits: Fits) -> list[Block]:
    """The blocks of a source file."""
    parser = _parser(media_type)
    if parser is None:
        return list(_by_indentation(text))
    data = text.encode("utf-8", "replace")  # lone surrogates: one '?' for one character
    spans = list(_members(parser.parse(data).root_node, (), _Places(text, data), fits, 0))
    found: list[Block] = []
    begin = 0
    for end, above in spans:
        # What lies between two members belongs to the later one: comments, blank lines.
        if end > begin and text[begin:end].strip():
            found.append(Block(begin, end, Kind.CODE, above))
            begin = end
    if text[begin:].strip():
        found.append(Block(begin, len(text), Kind.CODE))
    return found


def _members(
    node: Any, above: tuple[str, ...], places: "_Places", fits: Fits, depth: int
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Where each member ends, and what it is in. A large one's head ends where its first begins."""
    for child in node.named_children:
        if child.type in _BEFORE:
            continue  # goes with what follows
        start, end = places.of(child.start_byte), places.of(child.end_byte)
        body = _body(child) if depth < _DEEPEST else None
        if body is None or not body.named_children or fits(start, end):
            yield end, above
            continue
        head = places.of(body.named_children[0].start_byte)
        title = places.text[start:head].strip().split("\n")[0].rstrip(" {:")[:200]
        yield head, above
        inner = (*above, title) if title else above
        yield from _members(body, inner, places, fits, depth + 1)
        yield end, inner


def _body(node: Any) -> Any:
    for name in ("body", "definition", "declaration", "value"):
        found = node.child_by_field_name(name)
        if found is not None:
            return found if name == "body" else _body(found)
    for child in node.named_children:
        if child.type in _BODIES or child.type.endswith(("_body", "_definition", "_declaration")):
            return child if child.type in _BODIES or child.type.endswith("_body") else _body(child)
    return None


class _Places:
    """Bytes → characters of one text."""

    def __init__(self, text: str, data: bytes) -> None:
        self.text = text
        self._data = data
        self._plain = len(data) == len(text)
        self._byte = self._character = 0

    def of(self, byte: int) -> int:
        if self._plain:
            return byte
        if byte < self._byte:
            self._byte = self._character = 0
        self._character += len(self._data[self._byte : byte].decode("utf-8", "ignore"))
        self._byte = byte
        return self._character


def _by_indentation(text: str) -> Iterator[Block]:
    begin, at, blank = 0, 0, False
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end + 1
        line = text[at:end]
        if not line.strip():
            blank = True
        else:
            if blank and not line[0].isspace() and line[0] not in ")]}" and text[begin:at].strip():
                yield Block(begin, at, Kind.CODE)
                begin = at
            blank = False
        at = end
    if text[begin:].strip():
        yield Block(begin, len(text), Kind.CODE)


@lru_cache(maxsize=16)
def _parser(media_type: str) -> Any:
    where = _GRAMMARS.get(media_type)
    if where is None:
        return None
    try:
        sitter = importlib.import_module("tree_sitter")
        grammar = importlib.import_module(where[0])
    except ImportError:
        return None
    return sitter.Parser(sitter.Language(getattr(grammar, where[1])()))
