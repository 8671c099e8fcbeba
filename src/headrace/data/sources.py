"""Files on this machine -> `Document`s with licence and provenance, in one fixed order.

Two sources need no download: the standard library of the running interpreter, as code and as the
prose inside it (docstrings, the language reference that `help()` shows), and a directory of texts
(`*.jsonl.gz` with a `text` field, `*.txt.gz`, and the same uncompressed).

Invariant: the same files give the same documents in the same order with the same ids, whatever
order the file system lists them in.
"""

import ast
import hashlib
import importlib.util
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from headrace.data import files
from headrace.data.document import Document as Document
from headrace.errors import DataError

_SKIPPED_DIRS = frozenset(
    {
        "site-packages", "dist-packages", "__pycache__", "lib-dynload",
        "test", "tests", "idle_test", "idlelib", "lib2to3", "distutils", "ensurepip", "pydoc_data",
    }
)  # fmt: skip
_PSF = "PSF-2.0"
_LICENCES = {
    "peps": "public domain or CC0-1.0",
    "rust_book": "MIT OR Apache-2.0",
    "tinyshakespeare": "public domain",
}


def stdlib_modules(root: Path | None = None) -> Iterator[tuple[str, str]]:
    """(dotted module name, source text) of the standard library, sorted by name.

    Tests, generated tables and packages that are gone from newer interpreters are left out.
    """
    root = Path(sysconfig.get_path("stdlib")) if root is None else root
    for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
        relative = path.relative_to(root)
        if _SKIPPED_DIRS.intersection(relative.parts):
            continue
        if relative.parts[0] == "encodings" and path.stem.startswith(("cp", "mac", "iso", "koi")):
            continue  # a thousand-line character table each
        if relative.parts[0].startswith(("config-", "_sysconfigdata")):
            continue  # differs from build to build
        parts = relative.with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        try:
            yield name, path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue  # a handful of files are in other encodings on purpose


def stdlib(root: Path | None = None) -> Iterator[Document]:
    """The standard library as code, one document a module."""
    for name, text in stdlib_modules(root):
        if len(text) > 200:
            yield Document(id=f"stdlib/{name}", source="stdlib", licence=_PSF, text=text)


def stdlib_prose(root: Path | None = None) -> Iterator[Document]:
    """The docstrings of a module, each under its dotted name, and the topics of `help()`."""
    for name, text in stdlib_modules(root):
        entries = [f"{e.name}{e.signature}\n\n{e.doc}" for e in docstrings(name, text)]
        prose = "\n\n\n".join(entries)
        if len(prose) > 300:
            yield Document(id=f"docstrings/{name}", source="docstrings", licence=_PSF, text=prose)
    yield from _topics()


@dataclass(frozen=True, kw_only=True, slots=True)
class DocEntry:
    """A module, class or function with its docstring."""

    name: str
    """Dotted, from the module down."""
    kind: str
    """module | class | function | method."""
    signature: str
    """`(path, *paths)` for what can be called, else empty."""
    doc: str


def docstrings(module: str, source: str) -> Iterator[DocEntry]:
    """Docstrings of one module's public names, in source order; nothing for invalid source."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in old modules are not our affair
            tree = ast.parse(source)
    except SyntaxError:
        return
    doc = ast.get_docstring(tree)
    if doc:
        yield DocEntry(name=module, kind="module", signature="", doc=doc)
    yield from _members(module, tree.body, inside_class=False)


def _members(prefix: str, body: list[ast.stmt], *, inside_class: bool) -> Iterator[DocEntry]:
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_"):
            continue
        name = f"{prefix}.{node.name}"
        doc = ast.get_docstring(node)
        is_class = isinstance(node, ast.ClassDef)
        if doc:
            signature = "" if isinstance(node, ast.ClassDef) else f"({ast.unparse(node.args)})"
            kind = "class" if is_class else "method" if inside_class else "function"
            yield DocEntry(name=name, kind=kind, signature=signature, doc=doc)
        if is_class:
            yield from _members(name, node.body, inside_class=True)


def _topics() -> Iterator[Document]:
    spec = importlib.util.find_spec("pydoc_data.topics")
    if spec is None or spec.origin is None:
        return
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for node in tree.body:
        if not isinstance(node, ast.Assign):
            continue
        topics = ast.literal_eval(node.value)
        for topic in sorted(topics):
            yield Document(
                id=f"topics/{topic}", source="topics", licence=_PSF, text=topics[topic].strip()
            )


def texts(path: Path) -> Iterator[Document]:
    """The documents of one `*.jsonl[.gz]` or `*.txt[.gz]`, or of all in a directory, by file name.

    Raises:
        DataError: No such directory, no such file in it, or a file or record that cannot be read.
    """
    kinds = (".jsonl", ".txt")
    found = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else None
    if found is None:
        raise DataError(f"{path} is not a directory; give one with *.jsonl.gz or *.txt.gz")
    chosen = [file for file in found if file.name.removesuffix(".gz").endswith(kinds)]
    if not chosen:
        raise DataError(f"{path} has no *.jsonl, *.txt, *.jsonl.gz or *.txt.gz file")
    for file in chosen:
        name = file.name.split(".")[0]
        licence = _LICENCES.get(name, "unknown: see the directory the text came from")
        for record in files.read(file):
            if isinstance(record, files.Skipped):
                where = f"{file}:{record.number}"
                raise DataError(
                    f"cannot read {where}: {record.reason}, {record.detail}; mend or drop it, or "
                    "let headrace data prepare count such records"
                )
            yield Document(
                id=f"{name}/{record.key}", source=name, licence=licence, text=record.text
            )


def capped(documents: Iterable[Document], limits_bytes: dict[str, int]) -> list[Document]:
    """The documents, those of each limited source only up to its bytes.

    Which stay is decided by the hash of the id, so that another file elsewhere changes nothing.
    """
    ordered = list(documents)
    used: dict[str, int] = {}
    kept: set[str] = set()
    for document in sorted(ordered, key=lambda d: id_hash(d.id)):
        limit = limits_bytes.get(document.source)
        size = len(document.text.encode())
        total = used.get(document.source, 0)
        if limit is None or total + size <= limit:
            used[document.source] = total + size
            kept.add(document.id)
    return [document for document in ordered if document.id in kept]


def id_hash(identity: str) -> int:
    """A 64-bit number from an id, the same on every machine."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big")


def is_held_out(identity: str, *, one_in: int) -> bool:
    """Whether a document is for evaluation only: about one in `one_in`, by the hash of its id."""
    return id_hash(f"held-out:{identity}") % one_in == 0
