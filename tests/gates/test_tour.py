"""The tour names only what exists: each `headrace.x.y` in docs/tour.md resolves."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(
    set(re.findall(r"`(headrace(?:\.\w+)+)`", (ROOT / "docs" / "tour.md").read_text("utf-8")))
)


@pytest.mark.parametrize("name", NAMES)
def test_name_exists(name: str) -> None:
    module_name, attributes = name, list[str]()
    while True:
        try:
            target: object = importlib.import_module(module_name)
            break
        except ModuleNotFoundError:
            module_name, _, attribute = module_name.rpartition(".")
            attributes.insert(0, attribute)
    for attribute in attributes:
        target = getattr(target, attribute)


def test_it_names_both_ways() -> None:
    assert len(NAMES) > 20
