"""Metric names are a promise to dashboards; the counts are those of the records."""

import contextvars
import json
import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from headrace.config import LogSettings
from headrace.errors import ConfigError
from headrace.observe.gauges import MOST_BUDGETS, MOST_SOURCES, BudgetLeft, SourceAge, Standing
from headrace.observe.logs import REQUEST, LineFormatter, RequestLog, configure, set_up
from headrace.observe.metrics import EngineStats, Metrics
from headrace.observe.usage import UsageRecord
from headrace.types import Leg, Usage

ROOT = Path(__file__).resolve().parents[3]
NAMES = {
    "headrace_admission_seconds": "histogram",
    "headrace_cache_requests": "counter",
    "headrace_cache_tokens": "counter",
    "headrace_breaker_open": "gauge",
    "headrace_config_accepted": "gauge",
    "headrace_config_reloads": "counter",
    "headrace_engine_kv_blocks_cached": "gauge",
    "headrace_engine_kv_blocks_total": "gauge",
    "headrace_engine_kv_blocks_used": "gauge",
    "headrace_engine_preemptions": "counter",
    "headrace_engine_restarts": "counter",
    "headrace_engine_running": "gauge",
    "headrace_engine_tokens": "counter",
    "headrace_engine_waiting": "gauge",
    "headrace_inter_token_latency_seconds": "histogram",
    "headrace_request_duration_seconds": "histogram",
    "headrace_budget_left_ratio": "gauge",
    "headrace_budgets": "gauge",
    "headrace_index_source_behind_seconds": "gauge",
    "headrace_index_source_items": "gauge",
    "headrace_index_source_late": "gauge",
    "headrace_index_source_objective_seconds": "gauge",
    "headrace_index_sources": "gauge",
    "headrace_cost_usd": "counter",
    "headrace_requests": "counter",
    "headrace_upstream_requests": "counter",
    "headrace_upstream_seconds": "histogram",
    "headrace_requests_in_flight": "gauge",
    "headrace_time_to_first_token_seconds": "histogram",
    "headrace_tokens": "counter",
    "headrace_traces_dropped": "counter",
    "headrace_traces_expired": "counter",
    "headrace_traces_waiting": "gauge",
    "headrace_traces_written": "counter",
    "vllm:kv_cache_usage_perc": "gauge",
    "vllm:num_requests_running": "gauge",
    "vllm:num_requests_waiting": "gauge",
}
RECORD = UsageRecord(
    id="r1",
    route="/v1/completions",
    status=200,
    finish="stop",
    model="m",
    key_id="first",
    end_user="a b\nfinish=x",
    usage=Usage(prompt_tokens=5, cached_tokens=2, completion_tokens=3, reasoning_tokens=1),
    duration_s=0.5,
    admission_s=0.1,
    first_token_s=0.2,
)

AGE = SourceAge(
    org="acme",
    team="red",
    index="notes",
    source="docs",
    complete_s=100.0,
    behind_s=90.0,
    objective_s=60.0,
    items={"searchable": 2, "failed": 1},
)


def test_names_are_frozen_and_counts_are_the_records() -> None:
    metrics = Metrics()
    metrics.arrived(RECORD.route)
    metrics.gap(RECORD.route, "m", 0.01)
    metrics.record(RECORD)
    stats = EngineStats(kv_blocks_used=1, kv_blocks_total=4, tokens={"prompt": 5})
    budget = BudgetLeft("team", "red", "nanousd", "month", 0.25)
    standing = Standing(budgets=[budget], breakers={"r": "half-open"}, sources=[AGE])
    families = list(text_string_to_metric_families(metrics.render(stats, standing).decode()))
    kinds = {
        family.name: family.type for family in families if not family.name.endswith("_created")
    }
    assert kinds == NAMES
    values = {
        (sample.name, sample.labels.get("kind")): sample.value
        for family in families
        for sample in family.samples
    }
    assert values["headrace_tokens_total", "prompt"] == 5
    assert values["headrace_tokens_total", "cached"] == 2
    assert values["headrace_tokens_total", "completion"] == 3
    assert values["headrace_engine_tokens_total", "prompt"] == 5
    assert values["headrace_requests_in_flight", None] == 0
    assert values["vllm:kv_cache_usage_perc", None] == 0.25
    assert "headrace_engine" not in metrics.render(None).decode()
    assert "headrace_tokens_total" not in Metrics().render().decode().replace("# ", "").split()[0]


def test_a_kept_answer_s_tokens_are_no_model_s() -> None:
    metrics = Metrics()
    for cache in ("", "miss", "hit", "hit"):
        metrics.arrived(RECORD.route)
        metrics.record(replace(RECORD, cache=cache))
    values = {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }
    assert values["headrace_tokens_total", ("prompt", "m")] == 10
    assert values["headrace_cache_tokens_total", ("prompt", "m")] == 10
    assert values["headrace_cache_requests_total", ("m", "miss")] == 1
    assert values["headrace_cache_requests_total", ("m", "hit")] == 2


def test_money_and_calls() -> None:
    metrics = Metrics()
    legs = (
        Leg(provider="one", model="x", usage=Usage(), outcome="upstream_error", seconds=1.0),
        Leg(provider="", model="y", usage=Usage(), outcome="stop", seconds=2.0),
    )
    metrics.arrived(RECORD.route)
    metrics.record(replace(RECORD, legs=legs, cost_nanousd=2_500_000_000))
    text = metrics.render().decode()
    assert 'headrace_cost_usd_total{model="m"} 2.5' in text
    assert 'outcome="upstream_error",provider="one"} 1.0' in text
    assert 'headrace_upstream_seconds_sum{provider="local"} 2.0' in text


def test_no_client_and_no_budget_makes_series_without_end() -> None:
    metrics = Metrics()

    def size() -> int:
        many = [BudgetLeft("key", f"key_{n}", "nanousd", "day", n / 5000) for n in range(5000)]
        return len(metrics.render(None, Standing(budgets=many)).splitlines())

    def ended(n: int) -> None:
        metrics.arrived(RECORD.route)
        own = {"id": f"r{n}", "key_id": f"k{n}", "user": f"u{n}", "end_user": f"e{n}"}
        metrics.record(replace(RECORD, team=f"t{n}", feature=f"f{n}", **own))

    ended(0)
    before = size()
    for n in range(300):
        ended(n)
    assert size() == before
    text = metrics.render(None, Standing(budgets=None)).decode()
    assert "headrace_budget" not in text
    many = [BudgetLeft("key", f"key_{n}", "nanousd", "day", n / 5000) for n in range(5000)]
    found = metrics.render(None, Standing(budgets=many)).decode()
    assert found.count("headrace_budget_left_ratio{") == MOST_BUDGETS
    assert 'subject="key_0"' in found  # those with the least left
    assert "headrace_budgets 5000.0" in found


def test_sources_are_told_with_those_furthest_beyond_first_and_never_synced_as_infinite() -> None:
    metrics = Metrics()
    assert "headrace_index" not in metrics.render(None, Standing()).decode()
    named = '{index="notes",org="acme",source="docs",team="red"}'
    found = metrics.render(None, Standing(sources=[AGE])).decode()
    assert f"headrace_index_source_behind_seconds{named} 90.0" in found
    assert f"headrace_index_source_objective_seconds{named} 60.0" in found
    assert f"headrace_index_source_late{named} 1.0" in found
    assert "headrace_index_source_items{" in found
    never = replace(AGE, source="never", behind_s=None, complete_s=0.0)
    fresh = [replace(AGE, source=f"s{n}", behind_s=1.0) for n in range(300)]
    easy = replace(AGE, source="easy", behind_s=1e9, objective_s=0.0, items={})
    found = metrics.render(None, Standing(sources=[*fresh, easy, AGE, never])).decode()
    assert found.count("headrace_index_source_behind_seconds{") == MOST_SOURCES
    assert 'source="never",team="red"} +Inf' in found
    assert f"headrace_index_source_late{named} 1.0" in found
    assert f"headrace_index_source_late{named.replace('docs', 'easy')} 0.0" in found
    assert 'objective_seconds{index="notes",org="acme",source="easy"' not in found
    assert "headrace_index_sources 303.0" in found


def test_every_query_of_the_dashboard_names_a_metric_that_there_is() -> None:
    dashboard = json.loads((ROOT / "docs" / "grafana" / "headrace.json").read_text("utf-8"))
    panels = [each for panel in dashboard["panels"] for each in (panel, *panel.get("panels", ()))]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    queries += [v["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"]
    assert len(queries) > 20
    names = {name if kind != "counter" else f"{name}_total" for name, kind in NAMES.items()}
    for name, kind in NAMES.items():
        if kind == "histogram":
            names |= {f"{name}_{part}" for part in ("bucket", "count", "sum")}
    used: set[str] = set()
    for query in queries:
        found = set(re.findall(r"(?:headrace_|vllm:)[a-z_]+", query))
        assert found, query
        assert found <= names, query
        used |= found
    for wanted in (
        "budget_left",
        "breaker",
        "cost",
        "cache",
        "inter_token",
        "first_token",
        "traces",
    ):
        assert any(wanted in name for name in used), wanted
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len(set(ids))


def test_a_line_within_a_request_names_it(caplog: pytest.LogCaptureFixture) -> None:
    def work() -> None:
        REQUEST.set("r7")
        with caplog.at_level(logging.INFO, logger="headrace.x"):
            logging.getLogger("headrace.x").warning("odd")
        plain = LineFormatter(as_json=False).format(caplog.records[-1])
        assert plain.endswith("odd request=r7")
        line = json.loads(LineFormatter(as_json=True).format(caplog.records[-1]))
        assert line["request"] == "r7"

    contextvars.copy_context().run(work)
    logging.getLogger("headrace.x").warning("odd")
    assert "request" not in LineFormatter(as_json=False).format(caplog.records[-1])


@pytest.mark.parametrize(("name", "value"), [("format", "xml"), ("level", "loud")])
def test_log_settings_that_cannot_be_are_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"logs.{name}"):
        set_up(replace(LogSettings(), **{name: value}))


def test_a_line_a_request(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="headrace.request"):
        RequestLog().record(RECORD)
    [record] = caplog.records
    plain = LineFormatter(as_json=False).format(record)
    assert "\n" not in plain  # an end user's id cannot forge a line
    assert "completion_tokens=3" in plain
    assert plain.count(" finish=") == 1
    fields = json.loads(LineFormatter(as_json=True).format(record))
    assert fields["id"] == "r1"
    assert fields["end_user"] == "a b\nfinish=x"


def test_configure_twice_logs_once(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("headrace")
    before = (logger.handlers[:], logger.level, logger.propagate)
    try:
        configure()
        configure(as_json=True)
        logger.info("hello")
        try:
            raise ValueError("inside")
        except ValueError:
            logger.exception("bad")
    finally:
        logger.handlers[:], logger.level, logger.propagate = before
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert first["message"] == "hello"
    assert "inside" in second["traceback"]
