"""The prefix cache is a team's own: another's prompt is no hit, by its tokens or by its time."""

import json
import re
from pathlib import Path
from typing import Any

from service import Service, call, running

PROMPT = "The quick brown fox jumps over the lazy dog; pack my box with five dozen jugs. " * 12


def ask(service: Service, key: str, path: str, body: Any) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {key}"}
    status, text = call(service.url + path, data=json.dumps(body).encode(), headers=headers)
    assert status == 200, text
    answer: dict[str, Any] = json.loads(text)
    return answer


def cached(service: Service, key: str) -> int:
    body = {
        "model": "sprout",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 1,
    }
    usage = ask(service, key, "/v1/chat/completions", body)["usage"]
    assert usage["prompt_tokens"] > 128
    hit: int = usage["prompt_tokens_details"]["cached_tokens"]
    return hit


def test_a_team_hits_only_its_own(tmp_path: Path) -> None:
    with running(tmp_path, auth=True) as service:
        service.wait_logged("Ctrl-C stops it")
        found = re.search(r"hr-[\w-]{20,}", service.log.read_text())
        assert found
        admin = found.group()
        ask(service, admin, "/v1/admin/orgs", {"id": "other"})
        keys: dict[str, list[str]] = {}
        for team, org in (("red", "default"), ("blue", "default"), ("far", "other")):
            ask(service, admin, "/v1/admin/teams", {"id": team, "org": org})
            keys[team] = [
                ask(service, admin, "/v1/admin/keys", {"team": team})["token"] for _ in range(2)
            ]
        assert cached(service, keys["blue"][0]) == 0
        assert cached(service, keys["blue"][1]) > 0  # of one team, whoever of it asks
        for team in ("red", "far"):
            assert cached(service, keys[team][0]) == 0, team
            assert cached(service, keys[team][0]) > 0, team
        assert cached(service, admin) == 0  # nor is an administrator of blue's team
