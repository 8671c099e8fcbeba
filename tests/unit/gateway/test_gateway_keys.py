"""Keys: one made at the first start, only hashes kept, nobody else may read them."""

import json
from pathlib import Path

import pytest

from headrace.errors import ConfigError, Unauthorized
from headrace.gateway.keys import KeyRing


def test_first_start_makes_a_key_and_the_second_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "keys.json"
    ring, key = KeyRing.load_or_create(path)
    assert key is not None
    assert key.startswith("hr-")
    assert len(key) > 40
    assert path.stat().st_mode & 0o777 == 0o600
    assert key not in path.read_text()
    assert [entry.name for entry in path.parent.iterdir()] == ["keys.json"]
    again, none = KeyRing.load_or_create(path)
    assert none is None
    for opened in (ring, again):
        caller = opened.identify(f"bearer {key}")
        assert caller.key_id == caller.tenant == "first"


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer hr-wrong", "Bearer \udcff", "hr-x"],
)
def test_anything_else_is_unauthorized(tmp_path: Path, header: str | None) -> None:
    ring, _ = KeyRing.load_or_create(tmp_path / "keys.json")
    with pytest.raises(Unauthorized):
        ring.identify(header)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"keys": [{}]}', '{"keys": [{"id":"a","sha256":"x","created_s":1}]}']
)
def test_a_malformed_file_stops_the_start(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="delete"):
        KeyRing.load_or_create(path)


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    KeyRing.load_or_create(path)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        KeyRing.load_or_create(path)


def test_a_directory_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text(json.dumps({}))
    with pytest.raises(ConfigError, match=r"state_dir"):
        KeyRing.load_or_create(tmp_path / "file" / "keys.json")
