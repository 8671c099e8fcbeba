"""tinyshakespeare as characters: what nanoGPT's small configuration trains on.

Shared by the benches of training; the split is nanoGPT's, the first nine tenths and the rest.
"""

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

TEXT = Path(__file__).resolve().parents[2] / "shared" / "data" / "texts" / "tinyshakespeare.txt.gz"


@dataclass(frozen=True, kw_only=True, slots=True)
class Characters:
    train: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.int64]
    vocab: int


def characters(path: Path = TEXT) -> Characters:
    """Every character an id, by its place in the sorted alphabet."""
    text = gzip.decompress(path.read_bytes()).decode("utf-8")
    alphabet = {letter: place for place, letter in enumerate(sorted(set(text)))}
    ids = np.array([alphabet[letter] for letter in text], np.int64)
    edge = len(ids) * 9 // 10
    return Characters(train=ids[:edge], held_out=ids[edge:], vocab=len(alphabet))
