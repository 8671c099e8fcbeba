"""WordNet's files → the small table of words that `headrace.retrieval.answering.thesaurus` reads.

A word is taken by its Porter stem, and related to what its commoner senses are: words of the same
synset, the kind it is of, what is derived from it, and for adjectives their attribute, noun and
nearest kin. Opposites are WordNet's antonyms. Senses that nobody was seen to use (no count in its
tagged texts) count only where a word has no others.

    python bench/thesaurus.py /usr/share/wordnet src/headrace/retrieval/answering/thesaurus.txt.gz
"""

import argparse
import gzip
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from headrace.retrieval.answering.words import STOP_WORDS, stem

PARTS = {"n": "noun", "v": "verb", "a": "adj", "s": "adj", "r": "adv"}
SENSES = {"noun": 2, "verb": 4, "adj": 3, "adv": 2}
"""Of a word that are looked at, the commonest first."""
_KIN = {"@", "+", "=", "\\", "&", "*"}
"""Pointers: a kind of, derived from, attribute, pertains to, similar to, entails."""
_KEPT = 12
"""Relations of a word at most."""


class Synset(NamedTuple):
    words: tuple[str, ...]
    pointers: tuple[tuple[str, str, str, int, int], ...]
    """Symbol, part, offset, number of the word here and there; 0 = of the whole."""


def synsets(folder: Path) -> dict[tuple[str, str], Synset]:
    found: dict[tuple[str, str], Synset] = {}
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text("utf-8").splitlines():
            if line.startswith(" "):
                continue
            fields = line.split(" | ")[0].split()
            count = int(fields[3], 16)
            words = tuple(fields[4 + 2 * at].split("(")[0].lower() for at in range(count))
            at = 4 + 2 * count
            pointers = []
            for _ in range(int(fields[at])):
                symbol, offset, kind, ends = fields[at + 1 : at + 5]
                pointers.append((symbol, PARTS[kind], offset, int(ends[:2], 16), int(ends[2:], 16)))
                at += 4
            found[part, fields[0]] = Synset(words, tuple(pointers))
    return found


def senses(folder: Path) -> Iterator[tuple[str, str, list[str], int]]:
    """Word, part, offsets of its commoner senses, how many were seen in tagged texts."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"index.{part}").read_text("utf-8").splitlines():
            if line.startswith(" "):
                continue
            fields = line.split()
            word, count = fields[0], int(fields[2])
            seen = int(fields[5 + int(fields[3])])
            offsets = fields[-count:][: min(SENSES[part], max(1, seen))]
            yield word, part, offsets, seen


def parts(folder: Path) -> dict[str, str]:
    """The part of speech that a stem was seen most as: n, v, a, r."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for line in (folder / "cntlist.rev").read_text("utf-8").splitlines():
        key, _, count = line.split()
        word, _, sense = key.partition("%")
        counts[stem(word)]["_nvara"[int(sense[0])]] += int(count)
    return {word: found.most_common(1)[0][0] for word, found in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("wordnet", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    sets = synsets(given.wordnet)
    commoner = {
        (word, part, offset)
        for word, part, offsets, _ in senses(given.wordnet)
        for offset in offsets
    }
    seen = {stem(word) for word, _, _, count in senses(given.wordnet) if count}
    alike: dict[str, dict[str, int]] = defaultdict(dict)
    against: dict[str, set[str]] = defaultdict(set)

    def relate(table: dict[str, dict[str, int]], one: str, other: str, rank: int) -> None:
        a, b = stem(one), stem(other)
        if a != b and a not in STOP_WORDS and b not in STOP_WORDS:
            table[a][b] = min(rank, table[a].get(b, 9))

    def plain(word: str) -> bool:
        return word.isalpha() and len(word) > 2

    for word, part, offsets, _ in senses(given.wordnet):
        if not plain(word):
            continue
        for rank, offset in enumerate(offsets):
            made = sets[part, offset]
            for other in made.words:
                if plain(other) and (other, part, offset) in commoner:
                    relate(alike, word, other, rank)
            own = made.words.index(word) + 1 if word in made.words else 0
            for symbol, kind, target, here, there in made.pointers:
                if here not in (0, own):
                    continue
                words = sets[kind, target].words
                words = words if there == 0 else (words[there - 1],)
                for other in filter(plain, words):
                    if symbol == "!":
                        against[stem(word)].add(stem(other))
                    elif symbol in _KIN and (symbol != "@" or rank == 0 or part == "verb"):
                        relate(alike, word, other, rank + 2)
    part_of = parts(given.wordnet)
    lines: list[str] = []
    for word in sorted({*alike, *against} & seen):
        common = [other for other in alike[word] if other in seen]
        near = sorted(common, key=lambda other: (alike[word][other], other))[:_KEPT]
        if not near and not against[word]:
            continue
        lines.append(
            f"{word}\t{part_of.get(word, 'n')}\t{' '.join(near)}\t{' '.join(sorted(against[word]))}"
        )
    given.out.write_bytes(gzip.compress("\n".join(lines).encode(), 9, mtime=0))
    print(f"{len(lines)} words, {given.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
