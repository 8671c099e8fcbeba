"""Question files in SQuAD 2.0's form -> passages (Rajpurkar et al. 2018, arXiv 1806.03822)."""

import gzip
import json
from pathlib import Path
from typing import Any

from headrace.data.grounded import Passage
from headrace.errors import DataError


def passages(path: Path) -> list[Passage]:
    """Every paragraph with its questions, in the order of the file (`.json` or `.json.gz`).

    Raises:
        DataError: It cannot be read, or is of another form; names the place.
    """
    try:
        raw = path.read_bytes()
        document = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read questions from {path}: {error}") from error
    found: list[Passage] = []
    try:
        for article in document["data"]:
            found += (_passage(article["title"], p) for p in article["paragraphs"])
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not in SQuAD 2.0's form: {error!r} in article {len(found)}; it has "
            "data[].paragraphs[].qas[]"
        ) from error
    return found


def _passage(title: str, paragraph: dict[str, Any]) -> Passage:
    return Passage(
        article=title,
        text=paragraph["context"],
        asked=tuple(
            (
                qa["id"],
                " ".join(qa["question"].split()),
                ()
                if qa["is_impossible"]
                else tuple(dict.fromkeys(a["text"] for a in qa["answers"])),
            )
            for qa in paragraph["qas"]
        ),
    )
