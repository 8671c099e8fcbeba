"""Metric names are a promise to dashboards; the counts are those of the records."""

import json
import logging
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from headrace.observe.logs import LineFormatter, RequestLog, configure
from headrace.observe.metrics import EngineStats, Metrics
from headrace.observe.usage import UsageRecord
from headrace.types import Usage

NAMES = {
    "headrace_admission_seconds": "histogram",
    "headrace_cache_requests": "counter",
    "headrace_cache_tokens": "counter",
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
    "headrace_requests": "counter",
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


def test_names_are_frozen_and_counts_are_the_records() -> None:
    metrics = Metrics()
    metrics.arrived(RECORD.route)
    metrics.gap(RECORD.route, "m", 0.01)
    metrics.record(RECORD)
    stats = EngineStats(kv_blocks_used=1, kv_blocks_total=4, tokens={"prompt": 5})
    families = list(text_string_to_metric_families(metrics.render(stats).decode()))
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
