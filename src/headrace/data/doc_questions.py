"""Documentation -> questions with answers taken from it word for word.

Sources: docstrings of well-known modules and of the built-ins, the topics of `help()`, and the
headers of PEPs where those are among the texts. Every answer but its framing is quoted.
"""

import builtins
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator

from headrace.data.chat import Conversation, numbered, pick, turns
from headrace.data.sources import DocEntry, Document, docstrings, stdlib_modules
from headrace.types import Message

_MODULES = """
    argparse ast asyncio.tasks base64 bisect calendar cmd code codecs collections
    configparser contextlib copy csv dataclasses datetime difflib dis email.message enum
    fileinput fnmatch fractions functools genericpath getpass gettext glob gzip hashlib
    heapq html http.client inspect ipaddress json keyword linecache logging mimetypes os
    pathlib pickle pkgutil platform posixpath pprint queue random re reprlib sched secrets
    selectors shelve shlex shutil signal socket sqlite3 statistics string subprocess
    tarfile tempfile textwrap threading timeit tokenize traceback types typing
    urllib.parse urllib.request uuid warnings weakref webbrowser zipfile
"""
_ALIASES = {"posixpath": "os.path", "genericpath": "os.path", "asyncio.tasks": "asyncio"}
_BUILT_IN = ("math", "itertools", "time", "operator")
_TYPES = (str, bytes, list, dict, set, tuple, int, float)
_MAX_ANSWER_CHARS = 180

_WHAT = (
    "What does {name} do?",
    "What is {name}?",
    "Explain {name}.",
    "what does {name} do",
    "Tell me about {name}.",
    "What is {name} for?",
)
_SIGNATURE = (
    "How do I call {name}?",
    "What are the arguments of {name}?",
    "What is the signature of {name}?",
)
_MORE = ("And {name}?", "What about {name}?", "And what does {name} do?")
_ABOUT_PEP = ("What is PEP {number} about?", "What is PEP {number}?", "Tell me about PEP {number}.")
_TITLE = ("What is the title of PEP {number}?", "PEP {number}?")


def library(entries: Iterable[DocEntry] | None = None) -> list[Conversation]:
    """Questions about names of the standard library; None = this interpreter's own."""
    known = list(_entries() if entries is None else entries)
    bodies: list[tuple[Message, ...]] = []
    previous: tuple[str, str] | None = None
    for entry in known:
        answer = _answer(entry)
        if answer is None:
            continue
        names = _ways_to_say(entry.name)
        for name in names:
            for turn in range(2):
                question = pick(_WHAT, f"{name}/{turn}").format(name=name)
                bodies.append(turns(question, answer))
        if entry.signature and len(entry.signature) < 90:
            question = pick(_SIGNATURE, entry.name).format(name=entry.name)
            bodies.append(turns(question, f"Call it as `{entry.name}{entry.signature}`."))
        if previous is not None and pick(range(6), f"more/{entry.name}") == 0:
            first = pick(_WHAT, f"first/{entry.name}").format(name=previous[0])
            more = pick(_MORE, entry.name).format(name=entry.name)
            bodies.append(turns(first, previous[1], more, answer))
        previous = (entry.name, answer)
    return numbered("library", _unique(bodies))


def topics(documents: Iterable[Document]) -> list[Conversation]:
    """Questions about the topics of `help()`: statements, operators, protocols."""
    bodies: list[tuple[Message, ...]] = []
    for document in documents:
        if document.source != "topics":
            continue
        topic = document.id.removeprefix("topics/")
        paragraphs = [p for p in re.split(r"\n\s*\n", document.text) if p[:1].isalpha()]
        sentence = first_sentence(paragraphs[1]) if len(paragraphs) > 1 else None
        if sentence is None or len(topic) > 20:
            continue
        for way in (f"What is {topic} in Python?", f"Explain {topic}.", f"help({topic!r})"):
            bodies.append(turns(way, sentence))
    return numbered("topics", bodies)


def peps(documents: Iterable[Document]) -> list[Conversation]:
    """Questions about Python Enhancement Proposals, from their headers."""
    bodies: list[tuple[Message, ...]] = []
    for document in documents:
        header = _pep_header(document) if document.source == "peps" else None
        if header is None:
            continue
        number, title, kind, status = header
        about = f"PEP {number} is “{title}”. It is a {kind} PEP with status {status}."
        bodies.append(turns(pick(_ABOUT_PEP, title).format(number=number), about))
        bodies.append(
            turns(pick(_TITLE, title).format(number=number), f"PEP {number} is “{title}”.")
        )
    return numbered("peps", bodies)


def first_sentence(text: str) -> str | None:
    """The first sentence of a docstring in one line; None where it is no readable sentence."""
    paragraph = re.split(r"\n\s*\n", text.strip(), maxsplit=1)[0]
    line = " ".join(paragraph.split()).replace("``", "`")
    found = re.match(r"(.+?[.!?])(?=\s+[A-Z(\"'`]|$)", line)
    sentence = found.group(1) if found else line
    if not 12 <= len(sentence) <= _MAX_ANSWER_CHARS or "->" in sentence or ">>>" in sentence:
        return None
    if sentence.count(" ") < 2 or not sentence[0].isalpha():
        return None
    sentence = sentence[0].upper() + sentence[1:]
    return sentence if sentence[-1] in ".!?" else sentence.rstrip(":;,") + "."


def _answer(entry: DocEntry) -> str | None:
    sentence = first_sentence(entry.doc)
    if sentence is None:
        return None
    return f"`{entry.name}` is a {entry.kind}. {sentence}"


def _ways_to_say(name: str) -> tuple[str, ...]:
    parts = name.split(".")
    # The bare last name as well, where it says enough: "join" does not, "copyfile" does.
    bare = parts[-1] if len(parts) == 2 and len(parts[-1]) > 5 else None
    return (name, f"`{name}`") if bare is None else (name, bare)


def _entries() -> Iterator[DocEntry]:
    wanted = frozenset(_MODULES.split())
    for module, source in stdlib_modules():
        if module not in wanted:
            continue
        public = _ALIASES.get(module, module)
        for entry in docstrings(module, source):
            name = public + entry.name.removeprefix(module)
            if entry.kind == "module" and public != module:
                continue
            if name.count(".") <= 2 and len(name) <= 36:
                yield DocEntry(name=name, kind=entry.kind, signature=entry.signature, doc=entry.doc)
    yield from _built_in()


def _built_in() -> Iterator[DocEntry]:
    """What is written in C has its docstrings only at run time."""
    holders: list[tuple[str, object, str]] = [("", builtins, "built-in function")]
    holders += [(f"{n}.", importlib.import_module(n), "function") for n in _BUILT_IN]
    holders += [(f"{t.__name__}.", t, "method") for t in _TYPES]
    for prefix, holder, kind in holders:
        for name in sorted(vars(holder)):
            value = getattr(holder, name)
            doc = inspect.getdoc(value)
            skip = inspect.isclass(value) and issubclass(value, BaseException)
            if name.startswith("_") or not callable(value) or not doc or skip:
                continue
            what = "class" if inspect.isclass(value) else kind
            yield DocEntry(name=f"{prefix}{name}", kind=what, signature="", doc=doc)


def _pep_header(document: Document) -> tuple[int, str, str, str] | None:
    head = document.text[:2000]
    fields = {
        key: match.group(1).strip()
        for key in ("PEP", "Title", "Type", "Status")
        if (match := re.search(rf"^{key}:\s*(.+)$", head, re.MULTILINE))
    }
    if len(fields) < 4 or not fields["PEP"].isdigit() or len(fields["Title"]) > 70:
        return None
    return int(fields["PEP"]), fields["Title"], fields["Type"], fields["Status"]


def _unique(bodies: Iterable[tuple[Message, ...]]) -> list[tuple[Message, ...]]:
    """The first conversation with a question wins: `copy` of three modules is one question."""
    seen: dict[str, tuple[Message, ...]] = {}
    for body in bodies:
        seen.setdefault("\n".join(m.text for m in body[:-1]), body)
    return list(seen.values())
