"""HTML → text with headings, lists, tables and code, without what its reader does not see.

Scripts, styles and templates are dropped; so is what is hidden: `hidden`, `aria-hidden`,
`display:none`, `visibility:hidden`, no opacity, no size, moved off the page, or text in its
background's colour, by inline styles and by the document's own class and id rules. Where a page has
one main part, that is taken, and its navigation is not.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from headrace.retrieval.parsing.decode import decode
from headrace.retrieval.parsing.reading import CannotRead, Raw, Reading, Unreadable
from headrace.retrieval.parsing.rows import table
from headrace.retrieval.parsing.sniff import HTML

_DROPPED = frozenset(
    {"script", "style", "template", "noscript", "iframe", "object", "embed", "svg", "canvas"}
    | {"head", "select"}
)
_BLOCKS = frozenset(
    {"p", "div", "section", "article", "main", "header", "footer", "aside", "blockquote", "hr"}
    | {"ul", "ol", "dl", "dt", "dd", "figure", "figcaption", "form", "fieldset", "address"}
    | {"details", "summary", "body", "html", "center", "tr", "td", "th", "tbody", "thead"}
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_RULE = re.compile(r"([^{}]+)\{([^{}]*)\}")
_COMMENT = re.compile(r"/\*.*?\*/", re.S)
_SIMPLE = re.compile(r"^(?:\w+)?([.#])([\w-]+)$")
_INVISIBLE = re.compile(
    r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse)|opacity\s*:\s*0*\.?0+(?![.\d])"
    r"|font-size\s*:\s*0*\.?0+(?:px|pt|em|rem|%)?\s*(?:;|!|$)|(?:left|top|text-indent)\s*:\s*-\d{4,}"
    r"|clip\s*:\s*rect\(\s*0|(?:max-)?(?:height|width)\s*:\s*0(?:px)?\s*(?:;|!|$))",
    re.I,
)
_COLOUR = re.compile(r"(?:^|;)\s*color\s*:\s*([^;!]+)", re.I)
_BACKGROUND = re.compile(r"(?:^|;)\s*background(?:-color)?\s*:\s*([^;!]+)", re.I)
_WHITE = re.compile(
    r"^(?:white|#fff(?:fff)?|rgba?\(\s*255\s*,\s*255\s*,\s*255\b.*\)|transparent|rgba\(.*,\s*0\s*\))$",
    re.I,
)
_SPACE = re.compile(r"[ \t\r\n\f\v]+")
_DEEPEST = 400


def read_html(raw: Raw) -> Reading:
    """Raises: CannotRead."""
    found = decode(raw.data, declared=raw.encoding)
    root = parse(found.text)
    walker = Walker(hidden=_hidden_rules(root))
    notes = list(found.notes)
    part = _main_part(root)
    walker.walk(part if part is not None else root, 0)
    if part is not None and len("".join(walker.out).strip()) * 3 < len(_all_text(root)):
        # What calls itself the main part has hardly any of it.
        walker = Walker(hidden=walker.hidden)
        walker.walk(root, 0)
    flags: set[str] = set()
    if walker.hidden_characters:
        notes.append(
            f"{walker.hidden_characters} characters that a browser does not show were dropped"
        )
        flags.add("hidden_text")
    if walker.scripts:
        notes.append(f"{walker.scripts} scripts were dropped")
        flags.add("active_content")
    metadata = {"language": language} if (language := root.get("lang", "").strip()[:20]) else {}
    return Reading(
        text=walker.text(),
        media_type=HTML,
        title=_title(root),
        metadata=metadata,
        notes=tuple(notes),
        flags=frozenset(flags),
    )


def parse(text: str) -> Any:
    """The tree of however broken a page.

    Raises: CannotRead.
    """
    try:
        from lxml import html
    except ImportError:
        raise CannotRead(
            Unreadable.MISSING_EXTRA, "HTML needs lxml: pip install 'headrace[documents]'"
        ) from None
    # Characters that XML forbids would end the tree early.
    clean = re.sub("[\x00-\x08\x0b\x0e-\x1f\ufffe\uffff]", "", text).encode("utf-8", "replace")
    parser = html.HTMLParser(
        encoding="utf-8", remove_comments=True, remove_pis=True, no_network=True
    )
    try:
        root = html.document_fromstring(clean, parser=parser)
    except (html.etree.ParserError, SyntaxError, ValueError) as error:
        raise CannotRead(Unreadable.NO_TEXT, f"there is no page in it: {error}") from None
    return root


@dataclass(slots=True)
class Walker:
    """Goes through a tree once and writes its text."""

    hidden: frozenset[str] = frozenset()
    """`.class` and `#id` that the page's own rules hide."""
    out: list[str] = field(default_factory=list[str])
    hidden_characters: int = 0
    scripts: int = 0

    def text(self) -> str:
        """What has been written."""
        joined = re.sub(r" *\n *", "\n", "".join(self.out))
        return joined.replace("\x01", "    ").replace("\x02", " ")

    def walk(self, node: Any, depth: int, *, list_depth: int = 0, white: bool = False) -> None:
        """Write a node; what follows it inside its parent is the caller's."""
        tag = node.tag if isinstance(node.tag, str) else ""
        if not tag or depth > _DEEPEST:
            return
        if tag in _DROPPED:
            self.scripts += tag == "script"
            return
        if tag == "nav" and depth:
            return  # links to elsewhere
        style = node.get("style", "")
        if self._is_hidden(node, style):
            self.hidden_characters += len(_all_text(node))
            return
        white = self._is_white(style, white, node)
        if white and node.text:
            self.hidden_characters += len(node.text.strip())
        match tag:
            case "br":
                self.out.append("\n")
            case "pre":
                self._pre(node)
            case "table" if _is_data(node):
                self._table(node)
            case _ if tag in _HEADINGS:
                inner = Walker(hidden=self.hidden)
                inner._inside(node, depth, list_depth, white)
                title = " ".join("".join(inner.out).split())
                if title:
                    self.out.append(f"\n\n{'#' * _HEADINGS[tag]} {title}\n\n")
                self.hidden_characters += inner.hidden_characters
            case "li":
                self.out.append("\n" + "\x01" * max(list_depth - 1, 0) + "- ")
                self._inside(node, depth, list_depth, white)
            case "ul" | "ol":
                self.out.append("\n" if list_depth else "\n\n")
                self._inside(node, depth, list_depth + 1, white)
                self.out.append("\n" if list_depth else "\n\n")
            case "img":
                alt = " ".join(node.get("alt", "").split())
                self.out.append(f" {alt} " if alt and not white else "")
            case _:
                edge = "\n\n" if tag in _BLOCKS else ""
                self.out.append(edge)
                self._inside(node, depth, list_depth, white)
                self.out.append(edge)

    def _inside(self, node: Any, depth: int, list_depth: int, white: bool) -> None:
        if node.text and not white:
            self.out.append(_SPACE.sub(" ", node.text))
        for child in node:
            self.walk(child, depth + 1, list_depth=list_depth, white=white)
            if child.tail:
                if white:
                    self.hidden_characters += len(child.tail.strip())
                else:
                    self.out.append(_SPACE.sub(" ", child.tail))

    def _pre(self, node: Any) -> None:
        code = "".join(node.itertext()).strip("\n")
        if not code.strip():
            return
        fence = "```"
        while fence in code:
            fence += "`"
        body = code.replace(" ", "\x02")  # blanks that mean something
        self.out.append(f"\n\n{fence}\n{body}\n{fence}\n\n")

    def _table(self, node: Any) -> None:
        rows: list[list[str]] = []
        for row in node.iter("tr"):
            cells: list[str] = []
            for item in row:
                if item.tag in ("td", "th"):
                    inner = Walker(hidden=self.hidden)
                    inner.walk(item, 1)
                    cells.append(inner.text())
                    self.hidden_characters += inner.hidden_characters
                    self.scripts += inner.scripts
            rows.append(cells)
        self.out.append(f"\n\n{table(rows)}\n\n")

    def _is_hidden(self, node: Any, style: str) -> bool:
        if node.get("hidden") is not None or node.get("aria-hidden", "").lower() == "true":
            return True
        if style and _INVISIBLE.search(style):
            return True
        if not self.hidden:
            return False
        names = {f".{name}" for name in node.get("class", "").split()}
        names.add(f"#{node.get('id')}")
        return not names.isdisjoint(self.hidden)

    def _is_white(self, style: str, inherited: bool, node: Any) -> bool:
        said = node.get("color", "")
        if not style and not said:
            return inherited
        colour = _COLOUR.search(style)
        background = _BACKGROUND.search(style)
        ink = colour.group(1).strip() if colour else said.strip()
        paper = background.group(1).strip() if background else ""
        if ink and paper:
            return ink.lower() == paper.lower()
        if ink:
            # White on whatever is inherited: a page's own background is white as a rule, but a
            # dark one may be set by a sheet that is not here.
            return _WHITE.match(ink) is not None and not _dark_around(node)
        if paper:
            return inherited and _WHITE.match(paper) is not None
        return inherited


def _dark_around(node: Any) -> bool:
    for above in node.iterancestors():
        found = _BACKGROUND.search(above.get("style", "")) or above.get("bgcolor")
        if found:
            paper = found if isinstance(found, str) else found.group(1).strip()
            return _WHITE.match(paper) is None
    return False


def _is_data(node: Any) -> bool:
    """Whether a table is one of data: no table within, more than one cell."""
    if next(node.iterdescendants("table"), None) is not None:
        return False
    return sum(1 for _ in zip(node.iter("td", "th"), range(2), strict=False)) > 1


def _all_text(node: Any) -> str:
    parts = [
        text
        for item in node.iter()
        if isinstance(item.tag, str) and item.tag not in _DROPPED
        for text in (item.text, item.tail if item is not node else None)
        if text
    ]
    return " ".join("".join(parts).split())


def _main_part(root: Any) -> Any:
    for path in (".//main", ".//*[@role='main']", ".//article"):
        found = root.findall(path)
        if len(found) == 1:
            return found[0]
        if found:
            return None
    return None


def _title(root: Any) -> str:
    title = root.findtext(".//title") or ""
    if not title.strip():
        heading = root.find(".//h1")
        title = "" if heading is None else " ".join(heading.itertext())
    return " ".join(title.split())


def _hidden_rules(root: Any) -> frozenset[str]:
    found: set[str] = set()
    for style in root.iter("style"):
        sheet = _COMMENT.sub("", style.text or "")[:200_000]
        for selectors, body in _RULE.findall(sheet):
            if "@" in selectors or not _INVISIBLE.search(body):
                continue
            for selector in selectors.split(","):
                simple = _SIMPLE.match(selector.strip())
                if simple:
                    found.add(simple.group(1) + simple.group(2))
    return frozenset(found)
